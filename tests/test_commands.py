"""demo, inspect, tune, doctor, completion: each used, and each mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from PIL import Image

from sdedit.commands import COMMANDS
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.checks import doctor
from sdedit.runtime.editor import Editor
from sdedit.runtime.engines import remembered as tuned

# demo, inspect


def test_demo_paints_edits_and_shows(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run("demo", "--seed", 3)
    assert (code, stderr) == (0, "")
    assert Image.open("sdedit-demo.png").size == (1036, 256)
    command = stdout.splitlines()[1].removeprefix("By hand: sdedit ").split()
    assert run(*command)[0] == 0
    panel = np.asarray(Image.open("sdedit-demo.png").crop((520, 0, 776, 256)))
    by_hand = np.asarray(Image.open("result.png").resize((256, 256), Image.Resampling.BICUBIC))
    assert np.array_equal(panel, by_hand)
    assert_mistake(run("demo", "--out", "no/where.png"), "there is no folder no")


def test_inspect_shows_bundles_and_recipes(run: Run, guide: Path, out: Path) -> None:
    code, stdout, _ = run("inspect")
    assert code == 0
    assert "name: earth64" in stdout.splitlines()
    assert f"sha256: {read_bundle(SHIPPED).sha256}" in stdout.splitlines()
    assert "samplers: ancestral, ddim," in stdout
    manifest = json.loads(run("inspect", SHIPPED, "--json")[1])
    assert manifest["prediction"] == "v"
    run("edit", guide, "--out", out, "--seed", 7, *QUICK)
    assert "seed: 7" in run("inspect", out)[1].splitlines()
    assert json.loads(run("inspect", out, "--json")[1])["seed"] == 7
    assert_mistake(run("inspect", guide), "carries no recipe")
    assert_mistake(run("inspect", guide.parent / "nothing"), "nothing")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_stdout_that_is_full_is_one_line() -> None:
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "inspect"]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "sdedit: stdout cannot be written: No space left on device\n")


# tune


def test_tune_measures_remembers_and_auto_takes_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    code, stdout, stderr = run("tune", "--threads", 1, "--json")
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert {m["engine"] for m in report["measured"]} == {"onnxruntime", "openvino"}
    assert all(m["error"] <= 1e-4 and m["threads"] == 1 for m in report["measured"] if m["precision"] == "float32")
    medians = [m["median_ms"] for m in report["measured"]]
    assert medians == sorted(medians)
    best = next(m for m in report["measured"] if m["precision"] == "float32")
    with Editor.open() as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == (best["engine"], 1)
    with Editor.open(engine="onnxruntime", threads=2) as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == ("onnxruntime", 2)
    assert "measured by sdedit tune" in run("doctor")[1]


def test_tune_prints_a_table(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    code, stdout, _ = run("tune", "--threads", 1)
    assert code == 0
    assert "onnxruntime  float32     1 threads" in stdout
    assert "remembered in " in stdout.splitlines()[-1]


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"key": 1}', "[" * 10**5, "\0\1"])
def test_a_damaged_memory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    tuned.cache_file(bundle).write_text(text)
    assert tuned.remembered(bundle) == []


def test_a_memory_of_other_versions_or_nonsense_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    good = tuned.Measured("onnxruntime", "float32", 1, 1e-6, 5.0, 4.0, 6.0)
    file = tuned.remember(bundle, [good])
    assert file is not None
    assert tuned.remembered(bundle) == [good]
    stored = json.loads(file.read_text())
    for change in (
        {"engine": "rm -rf"},
        {"threads": True},
        {"threads": 0},
        {"median_ms": "5"},
        {"error": float("nan")},
    ):
        file.write_text(json.dumps({**stored, "measured": [{**stored["measured"][0], **change}]}))
        assert tuned.remembered(bundle) == [], change
    file.write_text(json.dumps({**stored, "key": {**stored["key"], "processor": "another"}}))
    assert tuned.remembered(bundle) == []


def test_a_cache_that_cannot_be_written_is_a_warning(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    with pytest.warns(UserWarning, match="cannot be written, nothing is remembered"):
        code, stdout, _ = run("tune", "--threads", 1)
    assert code == 0
    assert stdout.splitlines()[-1].endswith("not remembered")


def test_tune_refuses_no_threads(run: Run) -> None:
    assert_mistake(run("tune", "--threads", "0"), "threads 0 is not at least 1")


# doctor


def test_doctor_finds_this_installation_sound(run: Run) -> None:
    code, stdout, stderr = run("doctor", "--json")
    assert (code, stderr) == (0, "")
    findings = {finding["what"]: finding for finding in json.loads(stdout)}
    for what in ("versions", "processor", "kernels in c", "kernels in numpy", "engine onnxruntime", "engine openvino"):
        assert findings[what]["verdict"] == "ok", findings[what]
    assert findings["GPU kernels"]["verdict"] == "warning"
    assert len(run("doctor")[1].splitlines()) == len(findings)


def test_doctor_sees_wrong_bits(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = doctor.twin("numpy")
    wrong = kernels._replace(normal=lambda *a: kernels.normal(*a) + np.float32(1e-7))  # type: ignore[operator]
    monkeypatch.setattr(doctor, "twin", lambda name: wrong)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "wrong   kernels in c: noise " in stdout


def test_doctor_sees_an_engine_that_errs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure_error", lambda bundle, engine: 0.5)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "wrong   engine onnxruntime: " in stdout


def test_doctor_names_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_engines", lambda: ["onnxruntime"])

    def no_extension(name: str) -> Any:
        if name == "c":
            raise ImportError
        return real(name)

    real = doctor.twin
    monkeypatch.setattr(doctor, "twin", no_extension)
    code, stdout, _ = run("doctor")
    assert code == 0
    assert "warning engine openvino: not installed" in stdout
    assert "warning kernels in c: the extension was not built" in stdout


def test_doctor_refuses_two_onnxruntimes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {"onnxruntime": "1", "onnxruntime-gpu": "1"}
    monkeypatch.setattr(doctor, "installed_versions", lambda: both)
    code, stdout, _ = run("doctor")
    assert code == 2
    assert "pip uninstall onnxruntime onnxruntime-gpu, then install one" in stdout


# completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sdedit ", set(COMMANDS)),
        ("sdedit edit --sampler d", {"ddim", "dpmpp_2m", "dpmpp_2m_sde"}),
        ("sdedit edit --keep f", {"fresh", "fixed"}),
        ("sdedit edit --engine ", {"auto", "onnxruntime", "openvino", "tensorrt"}),
        ("sdedit edit --precision f", {"float32", "float16"}),
        ("sdedit edit --device ", {"cpu", "cuda"}),
        ("sdedit edit --fit p", {"pad"}),
    ],
)
def test_a_shell_completes_names(words: str, expected: set[str]) -> None:
    environment = {
        **os.environ,
        "_SDEDIT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    script = "import sys; sys.argv = ['sdedit']; from sdedit.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert {line.split(",")[1] for line in done.stdout.splitlines()} == expected, done.stderr


def imported_by(words: str, **environment: str) -> tuple[str, set[str]]:
    """What `sdedit WORDS` prints, and which slow packages it imports."""
    script = (
        "import sys; sys.argv = ['sdedit', *sys.argv[1:]]\n"
        "from sdedit.cli import main\n"
        "try: main()\n"
        "finally: print(*{'numpy', 'PIL', 'onnxruntime', 'openvino', 'torch'} & sys.modules.keys(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_an_example_and_is_quick(command: str) -> None:
    """Only the help of edit needs the runtime's lists of names, and so numpy."""
    stdout, imported = imported_by(f"{command} --help")
    assert "Example" in stdout
    assert imported <= ({"numpy", "PIL"} if command == "edit" else set())


@pytest.mark.parametrize("words", ["", "--help", "--version"])
def test_help_of_all_commands_imports_nothing_slow(words: str) -> None:
    assert imported_by(words)[1] == set()


def test_completion_of_commands_imports_nothing_slow() -> None:
    stdout, imported = imported_by("", _SDEDIT_COMPLETE="bash_complete", COMP_WORDS="sdedit e", COMP_CWORD="1")
    assert stdout.split() == ["plain,edit", "plain,export", "plain,extend"]
    assert imported == set()
