"""sdedit-bench with stubs: turns, refusals, rows of missing contenders, Ctrl-C, reports. No time is asserted."""

import copy
import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_stubs import Log, Stub, a_run, row, scenario, stub, suite
from PIL import Image
from tiny import tiny_checkpoint, tiny_ddpm, write_bundle

from sdedit.benchmarks import bench, cold, contenders, measure, report
from sdedit.benchmarks.case import Case, Contender, MissingError
from sdedit.benchmarks.contenders import CONTENDERS, OFFICIAL, Spec, check_instructions
from sdedit.benchmarks.page import page
from sdedit.benchmarks.plots import plot
from sdedit.benchmarks.scenarios import Scenario
from sdedit.errors import SdeditError
from sdedit.export.bundle import export_bundle
from sdedit.runtime.checks import turns

pytestmark = pytest.mark.usefixtures("no_rest")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny")


def test_contenders_take_turns_step_by_step(bundle: Path) -> None:
    log: Log = []
    contenders: dict[str, Contender] = {name: Stub(Case(str(bundle)), name, log) for name in "ab"}
    samples, complete = measure.interleave(contenders, steps=500, seconds=0.0)
    turn = turns.TURN + 1  # the first one of a turn is not kept
    assert log == (["a"] * turn + ["b"] * turn) * turns.MIN_ROUNDS
    assert complete
    assert {name: len(kept.step) for name, kept in samples.items()} == dict.fromkeys(
        "ab", turns.TURN * turns.MIN_ROUNDS
    )


def test_an_edit_that_has_ended_starts_again(bundle: Path) -> None:
    log: Log = []
    samples, _ = measure.interleave({"a": Stub(Case(str(bundle)), "a", log)}, steps=2, seconds=0.0)
    assert len(samples["a"].step) == turns.TURN * turns.MIN_ROUNDS


def test_what_is_wrong_is_not_timed(bundle: Path) -> None:
    log: Log = []
    reports = suite(good=stub(log, "good"), bad=stub(log, "bad", factor=0.51)).run([scenario(bundle)])
    assert row(reports, "good")["status"] == "measured"
    bad = row(reports, "bad")
    assert bad["status"] == "refused"
    assert "the network's error 2.0e-02 is above 1e-04" in bad["why"]
    assert "bad" not in log
    assert "step_ms" not in bad


def test_an_edit_that_differs_is_refused() -> None:
    reference = np.linspace(-1, 1, 300, dtype=np.float32)
    # the error is a hundredth of the range: 40 dB, enough for bfloat16, too little for float32
    assert measure.check_edit(reference + np.float32(0.02), reference, "bfloat16") == pytest.approx(40, abs=0.01)
    with pytest.raises(measure.RefusedError, match=r"PSNR 40\.0 dB against float32 is below 60 dB"):
        measure.check_edit(reference + np.float32(0.02), reference, "float32")
    with pytest.raises(measure.RefusedError, match="nan"):
        measure.check_edit(reference * np.float32(np.nan), reference, "bfloat16")


def test_a_contender_that_is_missing_or_fails_is_a_row(bundle: Path) -> None:
    def missing(case: Case) -> Contender:
        raise MissingError("it is not installed: pip install it")

    def broken(case: Case) -> Contender:
        raise ZeroDivisionError("by nought")

    log: Log = []
    contenders = {"gone": Spec("float32", missing), "broken": Spec("float32", broken), "good": stub(log, "good")}
    reports = suite(**contenders).run([scenario(bundle)])
    assert (row(reports, "gone")["status"], row(reports, "gone")["why"]) == (
        "missing",
        "it is not installed: pip install it",
    )
    assert (row(reports, "broken")["status"], row(reports, "broken")["why"]) == (
        "failed",
        "ZeroDivisionError: by nought",
    )
    assert row(reports, "good")["status"] == "measured"


def test_what_a_report_says_names_no_folder_of_this_machine(bundle: Path) -> None:
    with pytest.raises(
        MissingError, match="precision 'int8': bundle tiny has none: sdedit extend tiny --int8"
    ) as caught:
        CONTENDERS["sdedit, openvino, int8"].build(Case(str(bundle)))
    assert str(bundle) not in str(caught.value)


def test_ctrl_c_keeps_what_was_measured(bundle: Path) -> None:
    log: Log = []

    def interrupt() -> None:
        if log.count("b") == turns.TURN + 3:  # two of the proof, and its first turn
            raise KeyboardInterrupt

    running = suite(a=stub(log, "a"), b=stub(log, "b", late=interrupt))
    reports = running.run([scenario(bundle), scenario(bundle, "never")])
    assert [report["name"] for report in reports] == ["tiny-masked"]
    assert row(reports, "a")["step_ms"]["count"] == 2 * turns.TURN
    assert row(reports, "b")["step_ms"]["count"] == turns.TURN
    assert running.interrupted


def test_a_scenario_that_fails_does_not_lose_the_others(bundle: Path) -> None:
    log: Log = []

    def fails(folder: Path) -> tuple[Path, Path | None]:
        raise OSError("no space left")

    reports = suite(a=stub(log, "a")).run([Scenario("broken", "broken", fails), scenario(bundle)])
    assert reports[0]["failed"] == "OSError: no space left"
    assert reports[1]["rows"][0]["status"] == "measured"


def test_nothing_is_begun_after_the_deadline(bundle: Path) -> None:
    log: Log = []
    running = suite(a=stub(log, "a"))
    running.deadline = 0.0
    reports = running.run([scenario(bundle)])
    assert [(report["failed"], report["rows"]) for report in reports] == [("out of time", [])]
    assert log == []


def test_a_run_survives_its_file(bundle: Path, tmp_path: Path) -> None:
    run = a_run(bundle)
    report.write_run(run, tmp_path / "run.json")
    assert report.read_run(tmp_path / "run.json") == run
    for text in ("{}", "[]", "nothing", json.dumps({**run, "revision": 0})):
        (tmp_path / "other.json").write_text(text, encoding="utf-8")
        with pytest.raises(SdeditError, match=r"other\.json (is not a|has) r"):
            report.read_run(tmp_path / "other.json")


def test_the_page_has_a_row_for_each_contender(bundle: Path) -> None:
    run = a_run(bundle)
    run["scenarios"][0]["gflop"] = 0.01
    run["scenarios"][0]["rows"].append({"name": "gone", "status": "missing", "why": "not installed"})
    text = page(run)
    # 0.01 GFLOP in 2 ms are 5 GFLOP/s, half of the peak of 10
    assert f"| {OFFICIAL} | 2.00 | 1.90 to 2.10 | 0.00 % | 5 | 50 % |" in text
    assert "- gone: missing: not installed" in text


def test_compare_says_what_changed(bundle: Path) -> None:
    old = a_run(bundle)
    new = copy.deepcopy(old)
    new["scenarios"][0]["rows"][0]["step_ms"] = {"median": 1.0, "p5": 0.9, "p95": 1.1, "count": 9}
    new["scenarios"][0]["rows"][1] = {"name": "other", "status": "measured", "step_ms": new["scenarios"][0]["rows"][1]}
    lines = list(report.compare(new, old))
    assert f"tiny-masked, {OFFICIAL}: 2.00 -> 1.00 ms per step, -50.0 %" in lines
    assert "tiny-masked, fast: measured only before" in lines
    assert "tiny-masked, other: measured only now" in lines
    assert lines[1:] != list(report.compare(old, old))[1:]
    assert "+0.0 % (p5 to p95 overlap)" in list(report.compare(old, old))[1]


def test_plots_without_matplotlib_are_one_line(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SdeditError, match=r"--plot needs matplotlib: pip install 'PATH\[bench\]'"):
        plot(a_run(bundle), tmp_path)


def test_plots_are_written(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra bench is not installed")
    run = a_run(bundle)
    twice = copy.deepcopy(run["scenarios"][0])
    run["scenarios"].append({**twice, "name": "tiny-batch4", "batch": 4})
    run["scenarios"].append({**twice, "name": "official256-masked"})  # of another model: the others are still drawn
    run["scenarios"][0]["rows"][1]["edit_psnr"] = 90.0
    written = plot(run, tmp_path / "plots")
    assert [file.name for file in written] == ["benchmark-batch.png", "benchmark-step.png", "benchmark-error.png"]
    assert all(file.stat().st_size > 1000 for file in written)


@pytest.mark.parametrize("masked", [True, False])
def test_our_loop_and_the_official_one_make_the_same_edit(masked: bool, bundle: Path) -> None:
    """The formulas are equal, their order is not: float32 rounds 2^-24 per step and term, 100 dB."""
    case = Case(str(bundle), masked=masked, batch=2)
    ours, peer = (
        CONTENDERS[name].build(case) for name in ("sdedit, onnxruntime, float32", "onnxruntime and a numpy loop")
    )
    reference = measure.run_edit(peer, 5)
    assert measure.check_edit(measure.run_edit(ours, 5), reference, "float32") > 100
    assert ours.network.seconds > 0


def test_torch_and_diffusers_get_the_bundles_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that were read back from the graph, each norm different, give the reference's outputs and whole edits."""
    weights = pytest.importorskip("sdedit.benchmarks.weights")
    monkeypatch.setattr(contenders, "processor_features", list)  # a tiny network is fast in bfloat16 everywhere
    network = tiny_ddpm(pattern=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    checkpoint = tiny_checkpoint(network, 1000)
    bundle = export_bundle(checkpoint, tmp_path / "tiny", name="tiny", licence="CC0", fixed=True)
    weights.save_network(weights.network_of(bundle), tmp_path / "weights")
    case = Case(str(bundle.path), str(tmp_path / "weights"))
    ours = CONTENDERS["sdedit, onnxruntime, float32"].build(case)
    reference = measure.run_edit(ours, 5)
    names = [OFFICIAL, "official loop, torch eager, bfloat16"]
    if (tmp_path / "weights" / weights.DIFFUSERS).exists():
        names.append("diffusers, float32")
    for name in names:
        contender, precision = CONTENDERS[name].build(case), CONTENDERS[name].precision
        measure.check_network(contender, precision)
        assert measure.check_edit(measure.run_edit(contender, 5), reference, precision) > 20


def test_a_cold_process_makes_an_image(bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "case.json"
    Case(str(bundle), t0=1.0).dump(file)
    seconds, peak = cold.time_cold(file, "sdedit, onnxruntime, float32", 3)
    assert seconds > 0
    assert (peak is None) == (not cold.STATUS.exists())
    with Image.open(tmp_path / "case.png") as image:
        assert image.size == (8, 8)
    with pytest.raises(RuntimeError, match=r"PlanError: steps 25 is not in 1\.\.20"):
        cold.time_cold(file, "sdedit, onnxruntime, float32", 25)


def test_an_unknown_scenario_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sdedit-bench", "--scenario", "moon"])
    with pytest.raises(SystemExit) as end:
        bench.main()
    assert end.value.code == 2
    assert "scenario 'moon' is not one of earth64-masked, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("features", "missing"),
    [(["avx2", "fma"], True), (["avx2", "avx512_bf16"], False), (["asimd", "bf16"], False), ([], False)],
)
def test_bfloat16_is_not_emulated(features: list[str], missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "processor_features", lambda: features)
    check_instructions("float32")
    with pytest.raises(MissingError, match="has no instructions for bfloat16") if missing else nullcontext():
        check_instructions("bfloat16")
