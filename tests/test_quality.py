"""Quality of trained weights: the loss of exact denoisers, samples, and weights measured side by side."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import write_even
from stubs import run, stub_loop
from tiny import TINY

from sdedit.errors import CheckpointError
from sdedit.evaluation import views, weights
from sdedit.evaluation.metrics import grid, l2, sliced_wasserstein
from sdedit.runtime.loop import Task
from sdedit.runtime.plan import make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.sde import cosine
from sdedit_ref.training.crops import find_pictures, split
from sdedit_ref.training.quality import held_out_loss, sample, sheet
from sdedit_ref.training.run import new_run, save

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of one colour each."""
    return write_even(tmp_path_factory.mktemp("folder"))


def gaussian_network(variance: float) -> torch.nn.Module:
    """The exact v for x0 ~ N(0, variance): v = alpha eps - sigma x0."""

    class Exact(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            alpha, sigma = (torch.from_numpy(cosine()).float()[time.long(), i] for i in (0, 1))
            total = alpha**2 * variance + sigma**2
            return (((1 - variance) * alpha * sigma) / total)[:, None, None, None] * x

    return Exact()


def test_the_held_out_loss_of_an_exact_denoiser() -> None:
    """For x0 ~ N(0, q) the error of the best v is q / (alpha^2 q + sigma^2), averaged over the ten levels."""
    q = 0.25
    schedule = torch.from_numpy(cosine()).float()
    views = q**0.5 * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    levels = [50 + 100 * part for part in range(10)]
    alpha, sigma, _ = schedule[[k - 1 for k in levels]].T
    expected = float((q / (alpha**2 * q + sigma**2)).mean())
    # Means of 49,152 squares of normals each: relative deviation sqrt(2 / 49152) = 0.6 %, ten of them, mostly shared.
    assert math.isclose(held_out_loss(gaussian_network(q), "v", schedule, views), expected, rel_tol=0.03)


def test_samples_of_an_exact_denoiser_have_its_variance() -> None:
    schedule = torch.from_numpy(cosine()).float()
    samples = sample(gaussian_network(0.04), "v", schedule, (8, 3, 16, 16), steps=200)
    # 6,144 numbers: 1.8 %; 200 steps of order 1 add a few per cent.
    assert math.isclose(float(samples.var()), 0.04, rel_tol=0.1)


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_training_samples_as_the_runtime_does(prediction: str) -> None:
    """Samples are made with ddim, clip 1 and the noise of seed 0."""
    plan = make_plan(Schedule(cosine()), t0=1.0, steps=7, prediction=prediction, sampler="ddim", clip=1.0)
    nothing, mask = np.zeros((3, 8, 10), np.float32), np.ones((8, 10), np.float32)
    loop = stub_loop(lambda x, time: np.float32(0.4) * x + np.float32(time / 2000), (3, 8, 10))
    expected = run(loop, [Task(plan, nothing, mask, 0, index) for index in range(2)])

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return 0.4 * x + time[:, None, None, None] / 2000

    found = sample(Network(), prediction, torch.from_numpy(cosine()).float(), (2, 3, 8, 10), steps=7)
    # Float32 in another order: 7 steps of a dozen roundings of numbers below 4, each 2.4e-7 at most.
    assert np.abs(found.numpy() - np.stack(expected)).max() < 7 * 12 * 2.4e-7


def test_a_sample_takes_no_more_steps_than_there_are_levels() -> None:
    times = []

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            times.append(float(time[0]))
            return x

    schedule = torch.from_numpy(cosine(3)).float()
    assert sample(Network(), "v", schedule, (1, 3, 4, 4), steps=25).isfinite().all()
    assert times == [2, 1, 0]


def test_a_sheet_shows_the_images_row_by_row() -> None:
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 2, 4)
    values = np.asarray(sheet(images, 3))
    assert values.shape == (4, 12, 3)
    assert values[0, ::4, 0].tolist() == [0, 51, 102]
    assert values[2, ::4, 0].tolist() == [153, 204, 255]


def saved_weights(folder: Path, name: str, prediction: str = "v", size: int = 8) -> Path:
    """Untrained weights in a file with the metadata of training."""
    run = new_run(dataclasses.replace(TINY, size=size), prediction, "cosine", torch.float32, "cpu", seed=len(name))
    metadata = {"family": "ddpm", "prediction": prediction, "betas": "cosine", "timesteps": "1000", "patch": "2"}
    save(run, folder, {**metadata, "image_size": str(size)})
    return (folder / "ema.safetensors").rename(folder / f"{name}.safetensors")


def test_weights_are_measured_side_by_side(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [saved_weights(tmp_path, "first"), saved_weights(tmp_path, "other-one", "eps")]
    arguments = [*map(str, files), str(folder), "--hold-out", "2", "--count", "4", "--steps", "2"]
    made: dict[str, list[np.ndarray]] = {"sample": [], "edit": []}
    asked: list[Any] = []

    def recorded(name: str) -> Any:
        function = getattr(views, name)

        def record(*arguments: Any, **options: Any) -> np.ndarray:
            asked.append(options)
            made[name].append(function(*arguments, **options))
            return made[name][-1]

        return record

    for name in made:
        monkeypatch.setattr(weights, name, recorded(name))
    done = CliRunner().invoke(weights.command, arguments, catch_exceptions=False)
    assert asked == 2 * [{"sampler": "ddim", "steps": 2}, {"t0": 0.5, "sampler": "ddim", "steps": 25}]
    real, *lines = map(json.loads, done.stdout.splitlines())
    assert [line["weights"] for line in (real, *lines)] == [None, *map(str, files)]
    assert len(real["samples"]) == 1
    assert real["samples"] == real["edits"]
    kept, held_out = split(find_pictures(folder, 8), "2", 8, 0, [(1.0, 1.0)], 1.0, False)
    trained, known = views.cut(kept, 0, 4), views.cut(held_out, 0, 64)
    for line, file, samples, edits in zip(lines, files, made["sample"], made["edit"], strict=True):
        loaded = load_checkpoint(file)
        network, schedule = loaded.network, torch.from_numpy(loaded.schedule).float()
        loss = held_out_loss(network, loaded.prediction, schedule, torch.from_numpy(known))
        assert line["held_out_loss"] == pytest.approx(loss, abs=1e-6)
        in_torch = sample(network, loaded.prediction, schedule, (4, 3, 8, 8), 2).numpy()
        assert np.abs(samples - in_torch).max() <= 0.51 / 127.5  # rounded to 8 bits
        assert line["samples"] == pytest.approx(sliced_wasserstein(samples, known[:4]), abs=1e-4)
        assert line["as_trained"] == pytest.approx(sliced_wasserstein(samples, trained), abs=1e-4)
        assert line["edits"] == pytest.approx(sliced_wasserstein(edits, known[:4]), abs=1e-4)
        # each view has one colour, so its stroke painting is itself
        assert line["l2"] == pytest.approx(l2(edits, known[4:8]), abs=1e-3)
        assert line["grid"] == pytest.approx(grid(edits), abs=1e-3)


def test_weights_that_cannot_be_measured_are_refused(folder: Path, tmp_path: Path) -> None:
    good, small = saved_weights(tmp_path, "good"), saved_weights(tmp_path, "large", size=10)
    for files, message in (
        ([good, small], "its images have 10 pixels a side, those of the first file 8"),
        (
            [saved_weights(tmp_path, "x", "x0")],
            "has 3x8x8 images and predicts x0; square RGB images and eps or v are accepted",
        ),
        ([saved_weights(tmp_path, "tiny", size=6)], "its images have 6 pixels a side; at least 7 are needed"),
        ([tmp_path / "none"], "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            weights.command.main([*map(str, files), str(folder), "--hold-out", "2"], standalone_mode=False)
