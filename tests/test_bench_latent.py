"""sdedit-bench --latent: contenders make the same edit, rows tell what happened, and mistakes are one line."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="diffusers' pipelines need transformers: pip install '.[test]'")
pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")

import test_latent_export
import torch
from tiny_latent import write_latent_bundle

from sdedit.benchmarks import bench, report
from sdedit.benchmarks.case import MissingError
from sdedit.benchmarks.latent import child, pipelines, scenarios, suite
from sdedit.benchmarks.latent.bench import measure_latent
from sdedit.benchmarks.latent.contenders import CONTENDERS, DIFFUSERS, Spec
from sdedit.benchmarks.latent.report import tables
from sdedit.benchmarks.latent.scenarios import SCENARIOS, Request
from sdedit.benchmarks.latent.shapes import SHAPES
from sdedit.errors import SdeditError
from sdedit_ref.checkpoints import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

built = test_latent_export.built
"""Fixture: sd/, a small pipeline, and bundle/, the same exported."""

SIDE = 8
"""Height and width of its pictures."""

STEPS = 4
NUMPY = "onnxruntime and a numpy loop"
GENAI = "OpenVINO GenAI, float32"


def request_for(folder: Path, guidance: float = 7.5) -> Request:
    return Request(str(folder / "bundle"), str(folder / "sd"), "", "", SIDE, STEPS, guidance, edits=2, threads=1)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_contenders_make_the_same_edit(built: Path, guidance: float) -> None:
    """The engines' latents differ by 1e-4 at most, which changes few bytes of a picture: `judge` refuses more."""
    names = [name for name, spec in CONTENDERS.items() if not spec.slow_start and name != GENAI]
    rows = {name: suite.start_row(name, CONTENDERS[name]) for name in names}
    pictures, calls = {}, {}
    for name in names:
        stamps: list[float] = []
        contender = CONTENDERS[name].open(request_for(built, guidance))
        pictures[name] = contender.edit(child.stamper(stamps)).astype(np.float32)
        calls[name] = len(stamps)
    assert pictures[DIFFUSERS].shape == (SIDE, SIDE, 3)
    assert np.ptp(pictures[DIFFUSERS]) > 50  # else equal pictures would tell nothing
    suite.judge(pictures, rows)
    assert {name for name in names if rows[name]["status"] == "refused"} == set()
    assert all(rows[name]["edit_psnr"] >= 60 for name in names if name != DIFFUSERS)
    assert all(STEPS - 1 <= count <= STEPS for count in calls.values())


class StandIn:
    """openvino_genai, as far as the contender uses it: a pipeline draws noise twice and returns the guide."""

    __version__ = "2026.4"

    class Generator:
        """A class to inherit from."""

    class Image2ImagePipeline:
        def __init__(self, folder: str, device: str, **options: object) -> None:
            self.made = folder, device, options

        def generate(self, prompt: str, image: openvino.Tensor, **options: Any) -> openvino.Tensor:
            self.said = {**options, "prompt": prompt}
            self.drawn = [np.array(options["generator"].randn_tensor([1, 4, 2, 2]).data) for _ in range(2)]
            assert not any(options["callback"](step, STEPS, None) for step in range(STEPS))
            return image


def test_openvino_genai_begins_from_the_same_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in: folders for the package are written by one that does not install beside our transformers."""
    monkeypatch.setitem(sys.modules, "openvino_genai", StandIn)
    monkeypatch.delitem(sys.modules, "sdedit.benchmarks.latent.genai_peer", raising=False)
    request = replace(request_for(tmp_path), converted=str(tmp_path))
    contender: Any = CONTENDERS[GENAI].open(request)
    stamps: list[float] = []
    assert np.array_equal(contender.edit(child.stamper(stamps)), request.guide())
    pipeline = contender._pipeline
    assert len(stamps) == STEPS
    assert pipeline.made == (str(tmp_path), "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
    assert (pipeline.said["strength"], pipeline.said["num_inference_steps"]) == (0.5, 2 * STEPS)
    assert not pipeline.drawn[0].any()
    assert np.array_equal(pipeline.drawn[1], request.noise((1, 4, 2, 2)))
    for change, message in (
        ({"vae": "tiny"}, "it takes no tiny"),
        ({"converted": "/nowhere"}, "/nowhere is not there"),
    ):
        with pytest.raises(MissingError, match=message):
            CONTENDERS[GENAI].open(replace(request, **change))
    monkeypatch.delitem(sys.modules, "sdedit.benchmarks.latent.genai_peer")


def test_a_process_measures_its_contender(built: Path, tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    request_for(built).dump(file)
    found = child.run_child(file, NUMPY, tmp_path / "a.png", 120)
    assert [len(edit["steps"]) for edit in found["edits"]] == [STEPS - 1] * 2
    assert found["load_s"] > 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (SIDE, SIDE)
    with pytest.raises(TimeoutError, match="it did not end within 0 s"):
        child.run_child(file, NUMPY, tmp_path / "b.png", 0.01)
    replace(request_for(built), bundle="/nowhere").dump(file)
    with pytest.raises(RuntimeError, match=r"BundleError: bundle /nowhere: no such folder"):
        child.run_child(file, NUMPY, tmp_path / "b.png", 120)


def spec(needs: tuple[str, ...] = (), slow: bool = False) -> Spec:
    return Spec("float32", lambda request: pytest.fail("a process does that"), needs=needs, slow_start=slow)


def run_stubs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, act: Callable[[str], None], **options: Any
) -> tuple[suite.LatentSuite, dict[str, Any]]:
    """The report of stubs, whose processes are calls of `act`: their pictures are grey, bad's is not."""
    bundle = write_latent_bundle(tmp_path / "bundle")
    request = Request(str(bundle), "", "", "", 32, 2, 1.0, edits=1, threads=1)

    def run(file: Path, name: str, out: Path, seconds: float) -> child.Measured:
        act(name)
        picture = np.tile(np.arange(32, dtype=np.uint8), (32, 3, 1)).transpose(0, 2, 1)
        Image.fromarray(picture + 40 * (name == "bad")).save(out)
        edit = {"seconds": 3.0, "steps": [0.5, 0.7, 0.6]}
        return {"version": "1", "load_s": 2.0, "edits": [edit, {**edit, "seconds": 1.0}], "peak_mib": 10.0}

    monkeypatch.setattr(suite, "prepare", lambda *_: request)
    monkeypatch.setattr(suite, "run_child", run)
    stubs = {
        DIFFUSERS: spec(),
        "good": spec(),
        "bad": spec(),
        "slow": spec(slow=True),
        "gone": spec(needs=("no_such",)),
    }
    running = suite.LatentSuite(tmp_path, 1, say=lambda line: None, contenders=stubs, **options)
    return running, running.run(SHAPES["small"], SCENARIOS["few"], tmp_path)


def by_name(found: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row for row in found["rows"]}


def test_rows_tell_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    turns: list[str] = []

    def act(name: str) -> None:
        turns.append(name)
        if name == "slow":
            raise TimeoutError("it did not end within 600 s")

    _, found = run_stubs(monkeypatch, tmp_path, act)
    rows = by_name(found)
    good = rows["good"]
    assert (good["status"], good["edit_s"], good["load_s"], good["first_s"]) == ("measured", 1.0, 2.0, 5.0)
    assert (good["step_ms"]["median"], good["step_ms"]["count"]) == (600.0, 3 * SHAPES["small"].rounds)
    assert (good["step_speedup"], good["edit_speedup"], good["edit_psnr"]) == (1.0, 1.0, 200.0)
    assert rows["bad"]["status"] == "refused"
    assert (rows["slow"]["status"], rows["slow"]["why"]) == ("late", "it did not end within 600 s")
    assert rows["gone"]["why"].startswith("no_such is not installed")
    assert turns == [DIFFUSERS, "good", "bad", "slow", DIFFUSERS, "good", "bad"]
    assert found["weights_mib"] > 0


def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def act(name: str) -> None:
        if name == "bad":
            raise KeyboardInterrupt

    running, found = run_stubs(monkeypatch, tmp_path, act)
    rows = by_name(found)
    assert running.interrupted
    assert (rows["good"]["status"], rows["good"]["edit_psnr"], rows["bad"]["status"]) == (
        "measured",
        200.0,
        "interrupted",
    )


def test_nothing_is_begun_when_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, found = run_stubs(monkeypatch, tmp_path, lambda name: pytest.fail("it was begun"), seconds=0.0)
    assert {row["why"] for row in found["rows"] if row["name"] != "gone"} == {"out of time"}


def test_a_run_is_a_table_and_survives_its_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    scenario = run_stubs(monkeypatch, tmp_path / "work", lambda name: None)[1]
    monkeypatch.setattr(suite.LatentSuite, "run", lambda *_: scenario)
    run = measure_latent(SHAPES["small"], tmp_path, ("few",), 1)
    assert run["command"] == "sdedit-bench --latent --shape small --scenario few --threads 1"
    report.write_run(run, tmp_path / "run.json")
    assert report.read_run(tmp_path / "run.json") == run
    assert any("| good | 0.6 | 0.5 to 0.7 | 1 s | 2 s | 5 s | 10 MiB | 200.0 dB |" in line for line in tables(run))
    end(monkeypatch, "--load", tmp_path / "run.json", "--compare", tmp_path / "run.json")
    printed = capsys.readouterr().out
    assert "### small, 256x256: 4 steps without guidance, a tiny autoencoder" in printed
    assert "small-few, good: 600.00 -> 600.00 ms per step, +0.0 %" in printed
    assert end(monkeypatch, "--load", tmp_path / "run.json", "--markdown", tmp_path / "page.md") == 2
    assert "--markdown does not go with a run of --latent" in capsys.readouterr().err


def end(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of `sdedit-bench` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["sdedit-bench", *map(str, arguments)])
    try:
        bench.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--latent", "--quick"), "--quick does not go with --latent"),
        (("--latent", "--bundle", "b"), "--bundle does not go with --latent"),
        (("--shape", "tiny"), "--shape goes with --latent"),
        (("--latent", "--seconds", "0"), "--seconds does not go with --latent"),
        (("--latent", "--scenario", "moon"), "scenario 'moon' is not one of guided, few"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], line: str
) -> None:
    assert end(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err.strip().endswith(line)


def test_models_are_made_once_and_completely(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        (folder / f"{len(made)}").touch()
        made.append(folder)
        if len(made) == 1:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        scenarios.made_once(tmp_path / "home" / "part", make, print)
    assert not (tmp_path / "home" / "part").exists()
    for _ in range(2):
        scenarios.made_once(tmp_path / "home" / "part", make, lambda line: None)
    assert [file.name for file in (tmp_path / "home" / "part").iterdir()] == ["1"]
    assert len(made) == 2


def test_the_shape_of_stable_diffusion_is_its_own() -> None:
    """Numbers of parameters of the published U-Net, autoencoder and text encoder."""
    with torch.device("meta"):
        networks = [
            make(SHAPES["sd15"])
            for make in (pipelines.make_unet, pipelines.make_autoencoder, pipelines.make_text_encoder)
        ]
    assert [sum(p.numel() for p in network.parameters()) for network in networks] == [859520964, 83653863, 123060480]


def test_a_made_pipeline_is_one_that_export_takes(tmp_path: Path) -> None:
    shape = SHAPES["tiny"]
    pipelines.save_pipeline(shape, tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.latent is not None
    assert (checkpoint.shape, checkpoint.latent.factor) == ((4, 8, 8), shape.factor)
    assert checkpoint.latent.suggested["sampler"] == scenarios.SAMPLER
    assert json.loads((tmp_path / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"


def test_without_a_home_folder_a_folder_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit.benchmarks.latent.bench.cache_folder", lambda: None)
    with pytest.raises(SdeditError, match="give --folder, or set SDEDIT_CACHE"):
        measure_latent(SHAPES["tiny"], None, (), 1)
