"""Training: crops as functions of their number, the weighted loss, runs that go on to the bit, and mistakes."""

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdedit.errors import CheckpointError, ImageError
from sdedit_ref import evaluate, train
from sdedit_ref.checkpoint import load_checkpoint
from sdedit_ref.crops import Crops, decoded, find_pictures, parse_scales, split
from sdedit_ref.networks.ddpm import DDPMConfig
from sdedit_ref.quality import denoising_error, held_out_loss, laplacian_pyramid, sample, sheet, sliced_wasserstein
from sdedit_ref.run import Run, new_run, resume, save, start_from
from sdedit_ref.sde import cosine

TINY = DDPMConfig(3, 8, 32, (1,), 1, (), 2)
RECIPE = train.Recipe(images=16, batch=4, lr=1e-3, warm_up=4, ema=0.9, gamma=5.0, report=8, save_minutes=1e9, workers=0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are so small that threads only wait for each other, for minutes where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60x40 pixels, red = x, green = y, so that a crop tells where it was cut."""
    y, x = np.mgrid[:40, :60]
    path = tmp_path_factory.mktemp("pictures") / "ramp.png"
    Image.fromarray(np.stack([x, y, 0 * x], axis=2).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of one colour each."""
    folder = tmp_path_factory.mktemp("folder")
    for index in range(10):
        Image.new("RGB", (12, 10), (25 * index, 128, 255 - 25 * index)).save(folder / f"{index}.png")
    return folder


def pixels(crop: torch.Tensor) -> np.ndarray:
    return np.rint((crop.numpy() + 1) * 127.5).astype(int)


def test_a_crop_is_a_function_of_seed_and_number(picture: Path) -> None:
    crops = Crops([picture], 8, seed=3, scales=[(1, 0.5), (2, 0.5)], turns=True)
    assert torch.equal(crops[7], crops[7])
    assert not torch.equal(crops[7], crops[8])
    assert not torch.equal(crops[7], dataclasses.replace(crops, seed=4)[7])
    assert crops[0].shape == (3, 8, 8)
    assert crops[0].dtype == torch.float32


def test_crops_reach_every_place_and_both_mirror_images(picture: Path) -> None:
    crops = [pixels(Crops([picture], 8, seed=0)[i]) for i in range(400)]
    lefts = {int(crop[0].min()) for crop in crops}
    assert lefts == set(range(60 - 8 + 1))
    assert {int(np.sign(crop[0, 0, 1] - crop[0, 0, 0])) for crop in crops} == {-1, 1}
    assert all(crop[1, 1, 0] == crop[1, 0, 0] + 1 for crop in crops), "without turns up stays up"


@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1.0, 1.5, 2.0]),
    box=st.tuples(st.integers(0, 20), st.integers(0, 10)).map(lambda p: (p[0], p[1], p[0] + 30, p[1] + 20)),
)
@settings(max_examples=60, deadline=None)
def test_training_shares_no_pixel_with_what_is_held_out(
    picture: Path, seed: int, scale: float, box: tuple[int, int, int, int]
) -> None:
    text = ",".join(map(str, box))
    kept, held_out = split([picture], text, 8, seed, [(scale, 1.0)], 1.0, False)
    left, top, right, bottom = box
    for index in range(5):
        x, y = pixels(held_out[index])[:2]
        slack = scale  # a reduced pixel is the mean of what it covers
        assert left - slack <= x.min() and x.max() <= right + slack  # noqa: PT018
        assert top - slack <= y.min() and y.max() <= bottom + slack  # noqa: PT018
        x, y = pixels(kept[index])[:2]
        apart = x.max() < left + slack or x.min() > right - slack or y.max() < top + slack or y.min() > bottom - slack
        assert apart


def test_a_reduced_picture_is_the_mean_of_what_its_pixels_cover(picture: Path) -> None:
    half = decoded(picture, 2.0)
    assert half.shape == (20, 30, 3)
    assert np.abs(half[3, :, 0] - (2 * np.arange(30) + 0.5)).max() <= 0.5


def test_flat_crops_are_used_as_seldom_as_said(tmp_path: Path) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:, 64:] = np.random.default_rng(0).integers(0, 256, (64, 64, 3))
    Image.fromarray(image).save(tmp_path / "half.png")
    flat = [float(Crops([tmp_path / "half.png"], 8, 0, flat=0.0)[i].std()) for i in range(50)]
    assert min(flat) > 14 / 127.5
    every = [float(Crops([tmp_path / "half.png"], 8, 0, flat=1.0)[i].std()) for i in range(50)]
    assert min(every) == 0


def test_every_nth_picture_of_a_folder_is_held_out(folder: Path) -> None:
    paths = find_pictures(folder, 8)
    kept, held_out = split(paths, "5", 8, 0, [(1, 1)], 1.0, False)
    assert [p.name for p in held_out.paths] == ["0.png", "5.png"]
    assert set(kept.paths) == set(paths) - set(held_out.paths)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3", "hold-out '1,2,3' fits neither"),
        ("x", "'x' is no list of whole numbers"),
        ("2", "hold-out '2' fits neither"),
        ("0,0,100,20", "is no box of at least 8x8 in"),
        ("0,0,4,20", "is no box of at least 8x8 in"),
    ],
)
def test_a_hold_out_that_is_none(picture: Path, text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        split([picture], text, 8, 0, [(1, 1)], 1.0, False)


@pytest.mark.parametrize("text", ["", "0.5", "1:0", "2:x", "1:nan", "inf", "1,,2"])
def test_scales_that_are_none(text: str) -> None:
    with pytest.raises(ImageError, match="is no list of SCALE:CHANCE"):
        parse_scales(text)


def test_pictures_that_cannot_be_trained_on(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(ImageError, match="has no images"):
        find_pictures(tmp_path, 8)
    with pytest.raises(ImageError, match="cannot be read"):
        find_pictures(tmp_path / "nowhere.png", 8)
    with pytest.raises(ImageError, match=r"ramp.png is 60x40 pixels, smaller than the crop of 48x48$"):
        find_pictures(picture, 48)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match="is not an image"):
        find_pictures(tmp_path, 8)


@pytest.mark.parametrize("gamma", [5.0, math.inf])
@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_weighted_error_is_that_of_x0_weighted_by_min_snr(prediction: str, gamma: float) -> None:
    run = new_run(TINY, prediction, "cosine", torch.float32, "cpu", 0)
    k = torch.arange(50, 1000, 100)
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, len(k), 3, 8, 8, generator=generator)
    errors = denoising_error(run.network, prediction, run.schedule, x0, k, z, torch.float32)
    alpha, sigma, time = run.schedule.double()[k - 1].T
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    x = a * x0 + s * z
    with torch.inference_mode():
        out = run.network(x.float(), time.float()).double()
    guess = a * x - s * out if prediction == "v" else (x - s * out) / a
    expected = (alpha / sigma).square().clamp(max=gamma) * (guess - x0).square().mean((1, 2, 3))
    # x0's error is a difference of numbers near |x| / alpha; float32 holds those to 6e-8.
    assert torch.allclose((train.weight(run, k, gamma) * errors).double(), expected, rtol=1e-4)


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    recipe = dataclasses.replace(RECIPE, images=1000, warm_up=100, lr=1.0)
    rates = [train.learning_rate(seen, recipe) for seen in range(1001)]
    assert rates[0] == 0.01
    assert rates[99] == rates[100] == max(rates) == 1.0
    assert math.isclose(rates[550], 0.5)
    assert rates[1000] == 0
    assert np.all(np.diff(rates[100:]) < 0)


def run_once(folder: Path, out: Path, images: int) -> Run:
    crops, held_out = split(find_pictures(folder, 8), "5", 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    resume(run, out)
    views = torch.stack([held_out[i] for i in range(4)])
    train.train(run, crops, views, out, {}, dataclasses.replace(RECIPE, images=images))
    return run


def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run_once(folder, tmp_path / "whole", 16)
    step, calls = train.train_step, []

    def dies(*arguments: object) -> float:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", dies)
        patch.setattr(sys.modules[__name__], "RECIPE", dataclasses.replace(RECIPE, save_minutes=0.0))
        with pytest.raises(KeyboardInterrupt):
            run_once(folder, tmp_path / "killed", 16)
    killed = run_once(folder, tmp_path / "killed", 16)
    assert whole.seen == killed.seen == 16
    for name, value in whole.ema.state_dict().items():
        assert torch.equal(value, killed.ema.state_dict()[name]), name
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [8, 16]


def test_training_learns(folder: Path, tmp_path: Path) -> None:
    """Even pictures: where x0 is known up to three numbers, most of v can be told; an untrained network tells none."""
    crops, held_out = split(find_pictures(folder, 8), None, 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    views = torch.stack([held_out[i] for i in range(16)])
    before = held_out_loss(run.ema, "v", run.schedule, views)
    train.train(
        run, crops, views, tmp_path, {}, dataclasses.replace(RECIPE, images=4800, batch=16, lr=3e-3, report=10**6)
    )
    assert held_out_loss(run.ema, "v", run.schedule, views) < before / 2


def test_a_loss_that_is_no_number_ends_the_run_and_its_save_stands(folder: Path, tmp_path: Path) -> None:
    run_once(folder, tmp_path, 8)
    before = (tmp_path / "state.pt").read_bytes()
    crops, _ = split(find_pictures(folder, 8), None, 8, 0, [(1, 1)], 1.0, False)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 0)
    resume(run, tmp_path)
    recipe = dataclasses.replace(RECIPE, images=64, lr=1e30, warm_up=1, report=10**6)
    with pytest.raises(CheckpointError, match=r"after image \d+ the loss is (nan|inf), at --lr 1e\+30: try"):
        train.train(run, crops, torch.zeros(4, 3, 8, 8), tmp_path, {}, recipe)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_the_averaged_weights_are_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    network = ["--size", "8", "--width", "32", "--multiples", "1", "--attention", ""]
    length = ["--images", "8", "--batch", "4", "--report", "8"]
    result = CliRunner().invoke(train.command, [str(folder), "--out", str(tmp_path / "run"), *network, *length])
    assert result.exit_code == 0, result.output
    checkpoint = load_checkpoint(tmp_path / "run" / "ema.safetensors")
    assert checkpoint.prediction == "v"
    assert np.array_equal(checkpoint.schedule, cosine())
    with Image.open(tmp_path / "run" / "samples.png") as image:
        assert image.size == (48, 48)
    line = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert line["images"] == 8
    assert 0 < line["held_out"] < 10


def test_a_run_starts_from_given_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first = run_once(folder, tmp_path / "a", 8)
    run = new_run(TINY, "v", "cosine", torch.float32, "cpu", 1)
    start_from(run, tmp_path / "a" / "ema.safetensors")
    assert run.seen == 0
    for name, value in first.ema.state_dict().items():
        assert torch.equal(value, run.network.state_dict()[name]), name


def test_another_networks_run_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    run_once(folder, tmp_path, 8)
    other = new_run(dataclasses.replace(TINY, blocks=2), "v", "cosine", torch.float32, "cpu", 0)
    with pytest.raises(CheckpointError, match=r"state.pt is of another network, or damaged: "):
        resume(other, tmp_path)
    with pytest.raises(CheckpointError, match=r"ema.safetensors is of another network, or damaged: "):
        start_from(other, tmp_path / "ema.safetensors")
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match="is of another network, or damaged: "):
        resume(other, tmp_path)


@pytest.mark.parametrize("full", ["torch.save", "sdedit_ref.run.save_file"])
def test_a_full_disk_leaves_the_save_before(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    run = run_once(folder, tmp_path, 8)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fails(_: object, path: Path, **__: object) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full, fails)
    with pytest.raises(CheckpointError, match="cannot be saved to: No space left on device; the save before stands"):
        save(run, tmp_path, {})
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert after.keys() == before.keys()
    assert after["ema.safetensors"] == before["ema.safetensors"]
    restored = new_run(TINY, "v", "cosine", torch.float32, "cpu", 1)
    resume(restored, tmp_path)
    assert restored.seen == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--width", "40"], "width 40 must be a multiple of 32"),
        (["--size", "9"], "size 9 one of 8"),
        (["--multiples", "1,x"], "'1,x' is no list of whole numbers"),
        (["--gamma", "0"], "'--gamma': 0.0 is not in the range x>0"),
        (["--batch", "0"], "'--batch': 0 is not in the range x>=1"),
        (["--scales", "0"], "is no list of SCALE:CHANCE"),
        (["--device", "toaster"], "'toaster' is not one of 'cpu', 'cuda'"),
        (["--prediction", "x0"], "'x0' is not one of 'v', 'eps'"),
        (["--size", "4096"], "smaller than the crop of 4096x4096"),
        (["--out", "/dev/null/run"], "folder /dev/null/run cannot be made: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", str(folder), "--out", str(tmp_path / "run"), "--size", "8", *options])
    with pytest.raises(SystemExit) as caught:
        train.main()
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_module_is_a_command_that_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sdedit_ref.train", "--help"], capture_output=True, text=True, check=True
    )
    assert "the same command goes on from the last save" in " ".join(done.stdout.split())


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
    floor, *lines = map(json.loads, done.stdout.splitlines())
    assert set(floor) == {"floor"}
    assert [line["weights"] for line in lines] == list(map(str, files))
    _, held_out = split(find_pictures(folder, 8), "2", 8, 0, [(1.0, 1.0)], 1.0, False)
    known = torch.stack([held_out[index] for index in range(64)])
    for line, file in zip(lines, files, strict=True):
        loaded = load_checkpoint(file)
        loss = held_out_loss(loaded.network, loaded.prediction, torch.from_numpy(loaded.schedule).float(), known)
        assert line["held_out_loss"] == pytest.approx(loss, abs=1e-6)
        assert len(line["sliced_wasserstein"]) == len(floor["floor"]) == 1


def test_weights_that_cannot_be_measured_are_refused(folder: Path, tmp_path: Path) -> None:
    good, small = saved_weights(tmp_path, "good"), saved_weights(tmp_path, "large", size=10)
    for files, message in (
        ([good, small], "its images have 10 pixels, those of the first 8"),
        ([saved_weights(tmp_path, "x", "x0")], "a network of 3x8x8 that predicts x0; accepted are square RGB"),
        ([tmp_path / "none"], "cannot be read"),
    ):
        with pytest.raises(CheckpointError, match=message):
            evaluate.command.main([*map(str, files), str(folder), "--hold-out", "2"], standalone_mode=False)
