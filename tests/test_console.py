"""How commands end: one line for a mistake, whatever the streams are and whoever is to blame."""

import ast
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from import_graph import PACKAGES, ROOT, files, package_of, parse
from PIL import Image

from sdedit.console import comes_from_interrupt, mistake, run_command, to_json
from sdedit.errors import ImageError

MAIN = [sys.executable, "-m", "sdedit"]

unix = pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix shell")


def end(command: click.Command, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["test"])
    with pytest.raises(SystemExit) as raised:
        run_command(command, "test")
    return int(raised.value.code or 0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ImageError("guide a\nb.png is damaged"), "guide a\\nb.png is damaged"),
        (ImageError("guide \x1b[31m.png"), "guide \\x1b[31m.png"),
        (ImageError("guide a  b.png"), "guide a  b.png"),
        (click.UsageError("No such option:\n\t--x"), "No such option: --x"),
        (FileNotFoundError(2, "No such file or directory", "run.json"), "run.json: No such file or directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError("Unable to allocate 8 GiB"), "not enough memory: Unable to allocate 8 GiB"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_a_mistake_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise error

    assert end(command, monkeypatch) == 2
    assert capsys.readouterr() == ("", f"test: {line}\n")


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["test"])
    assert mistake(ZeroDivisionError()) is None
    with pytest.raises(ZeroDivisionError):
        run_command(command, "test")


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


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([*MAIN, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("sdedit, version ")


# Streams


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_text_that_a_stream_cannot_encode_is_escaped(guide: Path, tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "guides"
    folder.mkdir()
    for name in ("結果.png", "z.png"):
        (folder / name).write_bytes(guide.read_bytes())
    command = [*MAIN, "edit", folder, "--out", tmp_path / "made", *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["z.png", "結果.png"]
    assert b"\\u7d50\\u679c.png: 64x64" in done.stdout or "結果.png: 64x64".encode() in done.stdout


@unix
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_an_edit_needs_no_streams(guide: Path, out: Path, closed: str) -> None:
    line = f"'{sys.executable}' -m sdedit edit '{guide}' --out '{out}' --steps 1 --threads 1 {closed}"
    done = subprocess.run(line, shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert Image.open(out).size == (64, 64)


@unix
def test_a_mistake_without_stderr_still_has_its_exit_code(out: Path) -> None:
    line = f"'{sys.executable}' -m sdedit edit nowhere.png --out '{out}' 2>&-"
    assert subprocess.run(line, shell=True, capture_output=True, check=False).returncode == 2


@unix
@pytest.mark.parametrize("arguments", ["inspect", "--help", "edit --help", "inspect --json", "--version"])
def test_only_stdout_is_blamed_for_stdout(arguments: str) -> None:
    line = f"'{sys.executable}' -m sdedit {arguments} >/dev/full"
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "sdedit: stdout cannot be written: No space left on device\n")


LONG = "a" * 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", f"{LONG}.png", "--out", "x.png"], f"guide {LONG}.png cannot be read: File name too long"),
        (["edit", "guide.png", "--mask", f"{LONG}.png", "--out", "x.png"], f"mask {LONG}.png cannot be read"),
        (["edit", "guide.png", "--base", f"{LONG}.png", "--out", "x.png"], f"base {LONG}.png cannot be read"),
        (["edit", "guide.png", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (
            ["edit", "guide.png", "--out", "x.png", "--bundle", LONG],
            f"bundle {LONG} cannot be read",
        ),
        (["edit", ".", "--out", LONG], f"output {LONG} cannot be made: File name too long"),
        (["edit", ".", "--out", f"{LONG}/b"], f"output {LONG}/b cannot be made: File name too long"),
        (["strokes", f"{LONG}.png", "--out", "x.png"], f"photo {LONG}.png cannot be read: File name too long"),
        (["replay", f"{LONG}.png"], f"image {LONG}.png cannot be read: File name too long"),
        (["replay", "guide.png", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (["inspect", LONG], f"{LONG}"),
        (["export", LONG, "--dry-run"], f"{LONG}"),
        (["export", LONG, "--out", "y"], f"{LONG}"),
        (["extend", LONG, "--cubins", "ptx"], f"{LONG}"),
        (["demo", "--out", f"{LONG}.png"], f"output {LONG}.png cannot be written: File name too long"),
        (["tune", "--bundle", LONG], f"{LONG}"),
        (["doctor", "--bundle", LONG], f"{LONG}"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="names are limited in another way")
def test_a_name_that_is_too_long_is_to_blame(
    run: Run, guide: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(guide.parent)
    result = run(*arguments)
    assert_mistake(result, message)
    assert "stdout" not in result[2]
    assert list(guide.parent.iterdir()) == [guide]


# JSON


def refuse(constant: str) -> float:
    raise AssertionError(constant)


def test_json_has_no_number_that_is_not_finite() -> None:
    value = {"a": [math.nan, (math.inf, 1.5)], "b": {"c": np.float64("-inf"), "d": 2**70, "e": "NaN", "f": None}}
    expected = {"a": [None, [None, 1.5]], "b": {"c": None, "d": 2**70, "e": "NaN", "f": None}}
    for indent in (2, None):
        assert json.loads(to_json(value, indent=indent), parse_constant=refuse) == expected


@pytest.mark.parametrize("room", [*PACKAGES, "examples"])
def test_nothing_but_valid_json_is_ever_written(room: str) -> None:
    """Python writes NaN and Infinity, which other readers refuse, unless it is told not to."""
    lax = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files(room)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("dump", "dumps")
        if ast.unparse(node.func.value) == "json" and "allow_nan=False" not in map(ast.unparse, node.keywords)
    ]
    assert lax == []


# What is said about a picture


@pytest.mark.parametrize("by", ["command", "library"])
def test_warnings_of_the_logger_reach_stderr(tmp_path: Path, by: str) -> None:
    """Nobody has configured logging in these processes."""
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green")]
    frames[0].save(tmp_path / "a\x1b.gif", save_all=True, append_images=frames[1:])
    library = "from sdedit import Editor\nwith Editor.open(threads=1) as e: e.edit('a\\x1b.gif', steps=1)"
    commands = {
        "command": [*MAIN, "edit", "a\x1b.gif", "--out", "out.png", *QUICK],
        "library": [sys.executable, "-c", library],
    }
    done = subprocess.run(commands[by], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stderr == "guide a\\x1b.gif has 2 frames or pages: the first is used\n"


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
