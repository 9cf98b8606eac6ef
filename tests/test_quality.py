"""What trained weights are judged by: exact denoisers, samples, distances, and weights side by side."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pictures import write_even
from stubs import run, stub_loop
from tiny import TINY

from sdedit.errors import CheckpointError
from sdedit.evaluation import weights as evaluate
from sdedit.evaluation.metrics import grid, laplacian_pyramid, sliced_wasserstein
from sdedit.runtime.loop import Task
from sdedit.runtime.plan import make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref.checkpoints import load_checkpoint
from sdedit_ref.sde import cosine
from sdedit_ref.training.crops import find_pictures, split
from sdedit_ref.training.quality import edit, held_out_loss, sample, sheet
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
def test_the_edits_that_are_measured_are_the_runtimes(prediction: str) -> None:
    """With ddim and clip 1; the noise is that of seed 0."""
    guides = np.random.default_rng(5).uniform(-1, 1, (2, 3, 8, 10)).astype(np.float32)
    schedule = Schedule(cosine())
    plan = make_plan(schedule, t0=0.45, steps=7, prediction=prediction, sampler="ddim", clip=1.0)
    mask = np.ones((8, 10), np.float32)
    loop = stub_loop(lambda x, time: np.float32(0.4) * x + np.float32(time / 2000), (3, 8, 10))
    expected = run(loop, [Task(plan, guide, mask, 0, index) for index, guide in enumerate(guides)])

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return 0.4 * x + time[:, None, None, None] / 2000

    table = torch.from_numpy(cosine()).float()
    found = edit(Network(), prediction, table, torch.from_numpy(guides), t0=0.45, steps=7)
    # Float32 in another order: 7 steps of a dozen roundings of numbers below 4, each 2.4e-7 at most.
    assert np.abs(found.numpy() - np.stack(expected)).max() < 7 * 12 * 2.4e-7


def test_an_edit_takes_no_more_steps_than_there_are_levels() -> None:
    schedule = torch.from_numpy(cosine(6)).float()
    guides = torch.zeros(1, 3, 4, 4)
    times = []

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            times.append(float(time[0]))
            return x

    assert edit(Network(), "v", schedule, guides, t0=0.5, steps=25).isfinite().all()
    assert times == [2, 1, 0]


def test_grid_is_what_the_pixels_of_a_square_differ_by() -> None:
    images = torch.rand(32, 3, 9, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    # 32 x 4 x 4 squares of uniform numbers, less their mean: deviation (3/4)^0.5 12^-0.5, over 512^0.5, of 127.5.
    assert 0.5 < grid(images) / (127.5 * math.sqrt(3 / 4 / 12 / 512)) < 2
    pattern = torch.tensor([[3.0, -1.0], [-1.0, -1.0]]) / 127.5
    smooth = torch.linspace(-1, 1, 32)[:, None, None, None].expand(32, 3, 8, 8)
    assert math.isclose(grid(smooth + pattern.repeat(4, 4)), math.sqrt(3), rel_tol=1e-4)  # ((9 + 3) / 4) ** 0.5


def test_a_sheet_shows_the_images_row_by_row() -> None:
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 2, 4)
    values = np.asarray(sheet(images, 3))
    assert values.shape == (4, 12, 3)
    assert values[0, ::4, 0].tolist() == [0, 51, 102]
    assert values[2, ::4, 0].tolist() == [153, 204, 255]


def test_sliced_wasserstein_sees_what_differs_and_where() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(24, 3, 32, 32, generator=generator) for _ in range(3))
    assert sliced_wasserstein(a, a) == [0, 0, 0]
    same = sliced_wasserstein(a, b)
    assert len(same) == len(laplacian_pyramid(a)) == 3
    striped = c.mean(dim=2, keepdim=True).expand_as(c).contiguous()
    different = sliced_wasserstein(a, striped)
    assert different[0] > 3 * same[0]
    odd = torch.randn(2, 4, 3, 34, 34, generator=generator)  # 17 pixels are not halved
    assert len(sliced_wasserstein(*odd)) == 2
    with pytest.raises(ValueError, match="different shapes"):
        sliced_wasserstein(a, a[:3])


def saved_weights(folder: Path, name: str, prediction: str = "v", size: int = 8) -> Path:
    """Untrained weights in a file with the metadata of training."""
    run = new_run(dataclasses.replace(TINY, size=size), prediction, "cosine", torch.float32, "cpu", seed=len(name))
    metadata = {"family": "ddpm", "prediction": prediction, "betas": "cosine", "timesteps": "1000", "patch": "2"}
    save(run, folder, {**metadata, "image_size": str(size)})
    return (folder / "ema.safetensors").rename(folder / f"{name}.safetensors")


def test_weights_are_measured_side_by_side(folder: Path, tmp_path: Path) -> None:
    files = [saved_weights(tmp_path, "first"), saved_weights(tmp_path, "other-one", "eps")]
    arguments = [*map(str, files), str(folder), "--hold-out", "2", "--count", "4", "--steps", "2"]
    done = CliRunner().invoke(evaluate.command, arguments, catch_exceptions=False)
    real, *lines = map(json.loads, done.stdout.splitlines())
    assert [line["weights"] for line in (real, *lines)] == [None, *map(str, files)]
    assert len(real["samples"]) == 1
    assert real["samples"] == real["edits"]
    kept, held_out = split(find_pictures(folder, 8), "2", 8, 0, [(1.0, 1.0)], 1.0, False)
    trained = torch.stack([kept[index] for index in range(4)])
    known = torch.stack([held_out[index] for index in range(64)])
    views = known[:8]  # of one colour each, so their stroke paintings are themselves
    for line, file in zip(lines, files, strict=True):
        loaded = load_checkpoint(file)
        network, schedule = loaded.network, torch.from_numpy(loaded.schedule).float()
        loss = held_out_loss(network, loaded.prediction, schedule, known)
        assert line["held_out_loss"] == pytest.approx(loss, abs=1e-6)
        edits = edit(network, loaded.prediction, schedule, views[4:])
        assert line["edits"] == pytest.approx(sliced_wasserstein(edits, views[:4]), abs=1e-4)
        assert line["l2"] == pytest.approx(float((edits - views[4:]).flatten(1).norm(dim=1).mean()) / 2, abs=1e-3)
        assert line["grid"] == pytest.approx(grid(edits), abs=1e-3)
        samples = sample(network, loaded.prediction, schedule, (4, 3, 8, 8), 2)
        assert line["samples"] == pytest.approx(sliced_wasserstein(samples, views[:4]), abs=1e-4)
        assert line["as_trained"] == pytest.approx(sliced_wasserstein(samples, trained), abs=1e-4)


def test_weights_that_cannot_be_measured_are_refused(folder: Path, tmp_path: Path) -> None:
    good, small = saved_weights(tmp_path, "good"), saved_weights(tmp_path, "large", size=10)
    for files, message in (
        ([good, small], "its images have 10 pixels, those of the first 8"),
        ([saved_weights(tmp_path, "x", "x0")], "a network of 3x8x8 that predicts x0; accepted are square RGB"),
        ([saved_weights(tmp_path, "tiny", size=6)], "images of 6 pixels are less than the 7 measured"),
        ([tmp_path / "none"], "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            evaluate.command.main([*map(str, files), str(folder), "--hold-out", "2"], standalone_mode=False)
