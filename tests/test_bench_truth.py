"""sdedit-bench tells the truth: what is left out and why, whose turn is first, a busy machine, and the exit code."""

import dataclasses
import sys
from pathlib import Path

import pytest
from bench_stubs import Log, a_run, a_step, row, scenario, stub, suite
from tiny import write_bundle

from sdedit.benchmarks import bench, measure, ours, report
from sdedit.benchmarks.case import Case, Contender, MissingError
from sdedit.benchmarks.contenders import CONTENDERS, OFFICIAL
from sdedit.benchmarks.scenarios import Scenario
from sdedit.benchmarks.suite import Suite, faults
from sdedit.errors import EngineError, SdeditError, install_hint

pytestmark = pytest.mark.usefixtures("no_rest")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny")


def test_what_is_not_installed_is_left_out_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contenders and scenarios that need it are told in one line, and no more is done for them."""
    monkeypatch.setitem(sys.modules, "torch", None)
    said: list[str] = []
    peers = {name: spec for name, spec in CONTENDERS.items() if not spec.ours and "torch" in spec.needs}
    running = suite(ours=stub([], "ours"), **peers)
    running.say = said.append
    wanted = [scenario(bundle), Scenario("large", "large", lambda folder: pytest.fail("prepared"), needs=("torch",))]
    why = f"torch is not installed: {install_hint('bench')}"
    assert running.left_out(wanted) == [f"{why}; left out: {'; '.join(peers)}; large"]
    reports = running.run(wanted)
    assert row(reports, "ours")["status"] == "measured"
    assert {row(reports, name)["status"] for name in peers} == {"left out"}
    assert (reports[1]["failed"], reports[1]["rows"]) == (why, [])
    assert not any(name in line for name in peers for line in said)
    assert faults(reports) == [f"{why} ({len(peers) + 1} times)"]


def test_contenders_name_the_packages_that_they_import() -> None:
    """All peers but the last of these take their weights from the graph, with torch."""
    for name, spec in CONTENDERS.items():
        assert spec.ours == name.startswith("sdedit")
        assert ("torch" in spec.needs) == (not spec.ours and "onnxruntime" not in name)
        assert ("diffusers" in spec.needs) == name.startswith("diffusers")
        assert bool({"onnxruntime", "openvino"} & set(spec.needs)) == ("torch" not in spec.needs)


def test_ours_comes_first_and_peers_leave_it_time(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [spec.ours for spec in CONTENDERS.values()] == sorted((s.ours for s in CONTENDERS.values()), reverse=True)
    log: Log = []
    running = suite(ours=dataclasses.replace(stub(log, "ours"), ours=True), peer=stub(log, "peer"))
    running.seconds, running.deadline = 0.01, 1000.0
    monkeypatch.setattr("sdedit.benchmarks.suite.time.perf_counter", lambda: 999.995)
    monkeypatch.setattr(
        "sdedit.benchmarks.suite.interleave", lambda built, *_: ({name: a_step() for name in built}, True)
    )
    reports = running.run([scenario(bundle)])
    assert row(reports, "ours")["status"] == "measured"
    assert (row(reports, "peer")["status"], row(reports, "peer")["why"]) == ("late", "out of time")
    assert faults(reports) == ["out of time"]


@pytest.mark.parametrize("quick", [False, True])
def test_few_contenders_are_timed_for_their_share(bundle: Path, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def interleave(built: dict[str, Contender], steps: int, seconds: float) -> tuple[dict[str, measure.Samples], bool]:
        given.append(seconds)
        return {name: a_step() for name in built}, True

    monkeypatch.setattr("sdedit.benchmarks.suite.interleave", interleave)
    wrong = stub([], "wrong", factor=0.6)
    running = suite(a=stub([], "a"), b=stub([], "b"), c=wrong, d=wrong)
    running.quick, running.seconds = quick, None
    running.run([dataclasses.replace(scenario(bundle), seconds=60.0)])
    running.seconds = 5.0
    running.run([scenario(bundle)])
    assert given == [7.5 if quick else 30.0, 5.0]


@pytest.mark.parametrize(
    ("status", "fault"),
    [("measured", False), ("missing", False), ("skipped", False), ("refused", True), ("failed", True)],
)
def test_the_exit_code_tells_whether_everything_was_measured(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], status: str, fault: bool
) -> None:
    run = a_run(bundle)
    run["scenarios"][0]["rows"].append({"name": "other", "status": "missing", "why": "a \x1b[31mreason"})
    run["scenarios"][0]["rows"][1].update(status=status, why="a \x1b[31mreason")
    monkeypatch.setattr(bench, "measure", lambda *_: run)
    monkeypatch.setattr(sys, "argv", ["sdedit-bench"])
    code = 0
    try:
        bench.main()
    except SystemExit as end:
        code = int(end.code or 0)
    stdout, stderr = capsys.readouterr()
    assert (code, stderr) == (
        (2, "sdedit-bench: not everything was measured: a \\x1b[31mreason\n") if fault else (0, "")
    )
    assert "- other: missing: a \\x1b[31mreason" in stdout
    assert "\x1b" not in stdout


def test_an_interrupted_run_is_shown_and_has_its_exit_code(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "measure", lambda *_: {**a_run(bundle), "complete": False})
    monkeypatch.setattr(sys, "argv", ["sdedit-bench"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 130
    assert OFFICIAL in capsys.readouterr().out


@pytest.mark.parametrize("load", [None, 0.5, 99.0])
def test_a_busy_machine_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], load: float | None
) -> None:
    monkeypatch.setattr(bench, "load_average", lambda: load)
    monkeypatch.setattr(bench, "peaks", lambda threads, deadline: {})
    monkeypatch.setattr(Suite, "run", lambda self, wanted: [])
    run = bench.measure(None, (), True, None, None)
    busy = "other programs were running: the load was 99.0 on "
    assert (busy in capsys.readouterr().err) == (busy in report.header(run)) == (load == 99.0)
    assert f"Load average {'unknown' if load is None else load} before" in report.header(run)


def test_threads_that_this_machine_has_not_are_refused() -> None:
    with pytest.raises(SdeditError, match=r"threads 5000 is not in 1\.\.\d+, the processors"):
        bench.measure(None, (), True, 5000, None)


def test_an_engine_that_refuses_float32_has_failed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors without bfloat16 and bundles without int8 are no fault; float32 runs everywhere."""

    def refuse(*_: object) -> None:
        raise EngineError(f"it refuses {bundle}/network.onnx")

    monkeypatch.setattr(ours, "load_engine", refuse)
    for precision, error in (("float32", EngineError), ("bfloat16", MissingError)):
        with pytest.raises(error, match=r"^it refuses tiny/network\.onnx$"):
            CONTENDERS[f"sdedit, openvino, {precision}"].build(Case(str(bundle)))
