"""Ctrl-C ends a command with exit code 130 and without a traceback, whenever it comes."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from command_line import end
from import_graph import PACKAGES, ROOT, files, package_of, parse

from sdedit.console import comes_from_interrupt
from sdedit.errors import ImageError

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")


def interrupted_import() -> ImportError:
    """Error that a compiled package raises if Ctrl-C is pressed while it is imported."""
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize("error", [interrupted_import(), ImportError("KeyboardInterrupt: <EMPTY MESSAGE>")])
def test_an_interrupt_of_an_import_is_no_missing_package(
    error: ImportError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        try:
            raise error
        except ImportError:
            raise ImageError("the package torch is not installed") from None

    assert end(command, monkeypatch) == 130
    assert capsys.readouterr() == ("", "")


def test_a_missing_package_is_no_interrupt() -> None:
    assert not comes_from_interrupt(ImportError("No module named 'torch'"))


@unix
def test_an_interrupt_before_anything_is_imported_has_no_traceback(tmp_path: Path) -> None:
    slow = tmp_path / "click"
    slow.mkdir()
    (slow / "__init__.py").write_text("import sys, time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    script = "from sdedit.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"importing\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, b"")


# Ctrl-C while packages are imported, everywhere.

INTERRUPTED = {
    "as it is": "raise KeyboardInterrupt",
    "as a cause": "raise ImportError('initialization failed') from KeyboardInterrupt()",
    "as a text": "raise ImportError('KeyboardInterrupt: <EMPTY MESSAGE>')",
}
"""Code of a package that is interrupted while it is imported, as Python's and compiled ones raise it."""


def run_beside(tmp_path: Path, package: str, code: str, *arguments: object) -> tuple[int, str]:
    """Exit code and stderr of a Python with such a package before all others."""
    (tmp_path / "first" / package).mkdir(parents=True)
    (tmp_path / "first" / package / "__init__.py").write_text(code)
    paths = [str(tmp_path / "first"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    return done.returncode, done.stderr.strip()  # click ends the line of a terminal's "^C"


@pytest.mark.parametrize(
    ("package", "how"),
    [
        *(("torch", how) for how in INTERRUPTED),
        ("safetensors", "as it is"),
        ("click", "as it is"),
        ("numpy", "as a text"),
    ],
)
def test_an_interrupt_while_training_imports_is_one(tmp_path: Path, guide: Path, package: str, how: str) -> None:
    arguments = ["-m", "sdedit_ref.training", guide.parent, "--out", tmp_path / "run"]
    assert run_beside(tmp_path, package, INTERRUPTED[how], *arguments) == (130, "")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("package", "how"), [*(("onnxruntime", how) for how in INTERRUPTED), ("openvino", "as a cause")]
)
def test_an_interrupt_while_an_engine_is_imported_is_one(tmp_path: Path, package: str, how: str) -> None:
    """In a program as in a command: it is not told that the engine is not installed."""
    script = (
        "import sys; from sdedit.runtime import Editor\n"
        f"try: Editor.open(engine='{package}', threads=1)\n"
        "except KeyboardInterrupt: sys.exit(7)"
    )
    assert run_beside(tmp_path, package, INTERRUPTED[how], "-c", script) == (7, "")


def test_an_interrupt_while_export_imports_is_one(tmp_path: Path, guide: Path) -> None:
    arguments = ["-m", "sdedit", "export", guide, "--out", tmp_path / "bundle"]
    assert run_beside(tmp_path, "torch", INTERRUPTED["as a cause"], *arguments) == (130, "")


@pytest.mark.parametrize(
    ("entry", "package"),
    [
        ("sdedit", "click"),
        ("sdedit.reference", "click"),
        ("sdedit.benchmarks.cold", "numpy"),
        ("sdedit.benchmarks.kernels", "torch"),
        ("sdedit.benchmarks.network", "torch"),
        ("sdedit.benchmarks.step", "numpy"),
        ("sdedit.evaluation.pareto", "PIL"),
        ("sdedit.evaluation.weights", "numpy"),
        ("sdedit-bench", "numpy"),
    ],
)
def test_an_interrupt_while_a_command_imports_is_one(tmp_path: Path, entry: str, package: str) -> None:
    arguments = ["-c", "from sdedit.cli import bench; bench()"] if entry == "sdedit-bench" else ["-m", entry]
    how = INTERRUPTED["as a cause" if package == "torch" else "as it is"]
    assert run_beside(tmp_path, package, how, *arguments) == (130, "")


def test_all_modules_that_run_can_answer_a_ctrl_c_while_they_import() -> None:
    """After its docstring, such a module hands over to run_module, which imports it again under its own name."""
    seen = 0
    for room in PACKAGES:
        for path in files(room):
            tree = parse(path)
            guards = [node for node in tree.body if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)]
            if not guards or path.name == "__main__.py":
                continue
            seen += 1
            module = ".".join([package_of(path, room), path.stem])
            assert guards == [tree.body[1]], f"{path.name} imports before it can answer a Ctrl-C"
            assert ast.unparse(guards[0].body[1]) == f"run_module('{module}')", path.name
    assert seen >= 7


def test_all_that_catch_an_import_error_let_interrupts_through() -> None:
    """The first statement of each such handler is raise_interrupt, or the error is asked for its cause."""
    wrong = []
    for room in PACKAGES:
        for path in files(room):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ExceptHandler) and node.type and "ImportError" in ast.unparse(node.type):
                    first = ast.unparse(node.body[0])
                    if not first.startswith(("raise_interrupt(", "if comes_from_interrupt(")):
                        wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


COMPILING = """
import os, signal, sys, time
from sdedit.export.triton_kernels import away_from_interrupts

def compiles():
    time.sleep(0.1)  # until the main thread waits
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # the main thread handles it
    print("ended")

try:
    away_from_interrupts(compiles)
except KeyboardInterrupt:
    print("interrupted")
"""


@unix
def test_what_is_compiled_is_not_interrupted_in_mid_air() -> None:
    """`export --cubins`: a KeyboardInterrupt inside Triton's C++ aborts the process, so it comes afterwards."""
    done = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\ninterrupted\n", "")
    from sdedit.export.triton_kernels import away_from_interrupts

    assert away_from_interrupts(lambda: "compiled") == "compiled"
    with pytest.raises(ZeroDivisionError):
        away_from_interrupts(lambda: 1 // 0)


EXITING = """
import signal, time, click
from sdedit.console import run_command
from stubs import stub_editor
import numpy as np

def network(x, _):
    print("evaluates", flush=True)
    time.sleep(2)
    return x

@click.command()
def command():
    with stub_editor(network) as editor:
        editor.edit(np.zeros((64, 64, 3), np.uint8), steps=4)

try:
    run_command(command, "test")
except SystemExit:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # as a host has it
    raise
"""


@unix
def test_many_interrupts_end_a_command_quietly(tmp_path: Path) -> None:
    """The third and later ones come while the end waits for the evaluation: onnxruntime aborts if nobody does."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", EXITING], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"evaluates\n"
    for _ in range(5):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr.strip()) == (130, b"")  # click ends the line of a terminal's "^C"
