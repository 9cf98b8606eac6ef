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
from tiny import write_bundle

from sdedit.commands import COMMANDS
from sdedit.errors import EngineError
from sdedit.runtime.bundle import SHIPPED, Bundle, read_bundle
from sdedit.runtime.checks import doctor
from sdedit.runtime.editor import Editor
from sdedit.runtime.engines import Engine, load_engine, remembered
from sdedit.runtime.machine import available_processors, load_average

# demo, inspect


def test_demo_paints_edits_and_shows(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = run("demo", "--seed", 3, "--size", 64)
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


@pytest.fixture
def quick_tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a quiet machine, with a cache of its own."""
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    monkeypatch.setattr("sdedit.runtime.checks.tune.load_average", lambda: 0.25)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A bundle that is quicker than the shipped one."""
    return write_bundle(tmp_path / "tiny")


def test_tune_measures_remembers_and_auto_takes_it(run: Run, quick_tune: None) -> None:
    code, stdout, stderr = run("tune", "--json")
    assert (code, stderr) == (0, "")
    report = json.loads(stdout)
    assert {m["engine"] for m in report["measured"]} == {"onnxruntime", "openvino"}
    assert all(m["error"] <= 1e-4 for m in report["measured"] if m["precision"] == "float32")
    medians = [m["median_ms"] for m in report["measured"]]
    assert medians == sorted(medians)
    best = next(m for m in report["measured"] if m["precision"] == "float32")
    with Editor.open() as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == (best["engine"], best["threads"])
    with Editor.open(engine="onnxruntime", threads=2) as editor:
        assert (editor.device.engine.name, editor.device.engine.threads) == ("onnxruntime", 2)
    assert "measured by sdedit tune" in run("doctor")[1]
    assert run("tune", "--forget")[:2] == (0, f"forgot {report['file']}\n")
    assert run("tune", "--forget")[:2] == (0, "nothing was remembered\n")
    assert remembered.remembered(read_bundle(SHIPPED)) == []
    assert_mistake(run("tune", "--forget", "--threads", 1), "--forget goes without --threads and --json")


def test_tune_prints_a_table(run: Run, quick_tune: None, tiny: Path) -> None:
    code, stdout, _ = run("tune", "--bundle", tiny)
    assert code == 0
    assert "onnxruntime  float32     1 threads" in stdout
    assert stdout.splitlines()[-1].startswith("load 0.25; remembered in ")


def test_a_restricted_run_is_not_remembered(run: Run, quick_tune: None, tiny: Path) -> None:
    code, stdout, _ = run("tune", "--bundle", tiny, "--threads", 1)
    assert code == 0
    assert stdout.splitlines()[-1] == "load 0.25; not remembered: only --threads 1 was measured"
    assert remembered.remembered(read_bundle(tiny)) == []


def test_a_disturbed_run_is_not_remembered(
    run: Run, quick_tune: None, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdedit.runtime.checks.tune.load_average", lambda: 99.0)
    code, stdout, _ = run("tune", "--bundle", tiny)
    assert code == 0
    assert "not remembered: other programs were running: the load was 99.0 on" in stdout.splitlines()[-1]
    assert remembered.remembered(read_bundle(tiny)) == []


def test_tune_works_where_the_system_tells_no_load(
    run: Run, quick_tune: None, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows has no os.getloadavg."""
    monkeypatch.delattr("os.getloadavg")
    monkeypatch.setattr("sdedit.runtime.checks.tune.load_average", load_average)
    code, stdout, _ = run("tune", "--bundle", tiny)
    assert code == 0
    assert stdout.splitlines()[-1].startswith("load unknown; remembered in ")


@pytest.mark.parametrize("threads", ["0", "-1", "5000"])
def test_tune_refuses_threads_that_this_machine_has_not(run: Run, threads: str) -> None:
    expected = f"threads {threads} is not in 1..{available_processors()}, the processors that this process may use"
    assert_mistake(run("tune", "--threads", threads), expected)


def test_messages_of_engines_do_not_reach_the_terminal_raw(
    run: Run, quick_tune: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine may quote a name from the bundle."""
    real = load_engine

    def load(bundle: Bundle, engine: str, precision: str, threads: int) -> Engine:
        if engine == "openvino":
            raise EngineError("openvino refuses \x1b]0;title\x07 and\x9b31m")
        return real(bundle, engine, precision, threads)

    monkeypatch.setattr("sdedit.runtime.checks.tune.load_engine", load)
    monkeypatch.setattr("sdedit.runtime.checks.doctor.load_engine", load)
    for command in (("tune", "--threads", 1), ("doctor",)):
        stdout = run(*command)[1]
        assert "refuses \\x1b]0;title\\x07 and\\x9b31m" in stdout
        assert not set(stdout.replace("\x1b[", "")) & set("\x1b\x07\x9b")


def test_tune_never_suggests_to_change_the_installed_model(run: Run, quick_tune: None) -> None:
    stdout = run("tune", "--threads", 1)[1]
    assert f"sdedit extend {SHIPPED} --int8 --out NEW" in stdout


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"key": 1}', "[" * 10**5, "\0\1"])
def test_a_damaged_memory_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    (tmp_path / remembered.file_name(bundle)).write_text(text)
    assert remembered.remembered(bundle) == []


def test_a_memory_of_other_versions_or_nonsense_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDEDIT_CACHE", str(tmp_path))
    bundle = read_bundle(SHIPPED)
    good = remembered.Measured("onnxruntime", "float32", 1, 1e-6, 5.0, 4.0, 6.0)
    file = remembered.remember(bundle, [good])
    assert file is not None
    assert remembered.remembered(bundle) == [good]
    stored = json.loads(file.read_text())
    for change in (
        {"engine": "rm -rf"},
        {"threads": True},
        {"threads": 0},
        {"median_ms": "5"},
        {"error": float("nan")},
    ):
        file.write_text(json.dumps({**stored, "measured": [{**stored["measured"][0], **change}]}))
        assert remembered.remembered(bundle) == [], change
    file.write_text(json.dumps({**stored, "key": {**stored["key"], "processor": "another"}}))
    assert remembered.remembered(bundle) == []


def test_a_cache_that_cannot_be_written_is_a_warning(run: Run, quick_tune: None, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.warns(RuntimeWarning, match="cannot be written, nothing is remembered"):
        code, stdout, _ = run("tune", "--bundle", tiny)
    assert code == 0
    assert stdout.splitlines()[-1].endswith("not remembered: the cache cannot be written")


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
        ("sdedit edit --engine ", {"auto", "onnxruntime", "openvino", "tensorrt", "torch"}),
        ("sdedit edit --precision f", {"float32", "float16"}),
        ("sdedit edit --device ", {"cpu", "cuda"}),
        ("sdedit edit --fit p", {"pad"}),
        ("sdedit edit --mask-from a", {"alpha"}),
        ("sdedit edit --seed r", {"random"}),
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
    """Output of `sdedit WORDS`, and the slow packages that it imports."""
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
    """Only the help of edit and serve needs the runtime's lists of names, and so numpy."""
    stdout, imported = imported_by(f"{command} --help")
    assert "Example" in stdout
    assert imported <= ({"numpy", "PIL"} if command in ("edit", "serve") else set())


@pytest.mark.parametrize("words", ["", "--help", "--version"])
def test_help_of_all_commands_imports_nothing_slow(words: str) -> None:
    assert imported_by(words)[1] == set()


def test_completion_of_commands_imports_nothing_slow() -> None:
    stdout, imported = imported_by("", _SDEDIT_COMPLETE="bash_complete", COMP_WORDS="sdedit e", COMP_CWORD="1")
    assert stdout.split() == ["plain,edit", "plain,evaluate", "plain,export", "plain,extend"]
    assert imported == set()
