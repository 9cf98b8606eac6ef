"""Crops that are cut in batches: the same crops as one by one would be allowed, whatever the device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdedit.errors import ImageError
from sdedit_ref.training.batches import Batches, deviations, summed, turned
from sdedit_ref.training.crops import Crops

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 8


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Crops:
    """A picture's crops. Its red and green are the pixel's column and row; its left half has an even blue."""
    values = np.zeros((40, 60, 3), np.uint8)
    values[..., 0], values[..., 1] = np.arange(60), np.arange(40)[:, None]
    values[:, 30:, 2] = np.random.default_rng(0).integers(0, 256, (40, 30))
    path = tmp_path_factory.mktemp("pictures") / "ramp.png"
    Image.fromarray(values).save(path)
    return Crops([path], SIZE, seed=3)


def columns_and_rows(batch: torch.Tensor) -> np.ndarray:
    """Smallest column and row of each crop: int64 [B, 2]."""
    values = ((batch[:, :2].flatten(2).amin(2) + 1) * 127.5).round()
    return values.long().numpy()


def test_a_batch_holds_crops_of_the_picture(crops: Crops) -> None:
    batch = Batches(crops, "cpu").cut(0, 64)
    assert (batch.shape, batch.dtype) == ((64, 3, SIZE, SIZE), torch.float32)
    picture = np.asarray(Image.open(crops.paths[0]), np.float32).transpose(2, 0, 1) / 127.5 - 1
    for crop, (x, y) in zip(batch.numpy(), columns_and_rows(batch), strict=True):
        cut = picture[:, y : y + SIZE, x : x + SIZE]
        assert any(np.allclose(crop, one, atol=1e-6) for one in (cut, cut[:, :, ::-1]))


def test_a_batch_is_a_function_of_seed_and_number(crops: Crops) -> None:
    one, other = Batches(crops, "cpu"), Batches(crops, "cpu")
    assert torch.equal(one.cut(5, 16), other.cut(5, 16))
    assert not torch.equal(one.cut(5, 16), one.cut(6, 16))
    assert not torch.equal(one.cut(5, 16), Batches(replace(crops, seed=4), "cpu").cut(5, 16))


def test_no_crop_touches_what_is_held_out(crops: Crops) -> None:
    left, top, right, bottom = box = (20, 10, 40, 30)
    trained = columns_and_rows(Batches(replace(crops, without=box), "cpu").cut(0, 512))
    x, y = trained.T
    assert not ((x < right) & (x + SIZE > left) & (y < bottom) & (y + SIZE > top)).any()
    x, y = columns_and_rows(Batches(replace(crops, within=box), "cpu").cut(0, 512)).T
    assert (x.min(), x.max(), y.min(), y.max()) == (left, right - SIZE, top, bottom - SIZE)


def test_even_crops_are_rare_where_asked(crops: Crops) -> None:
    batch = Batches(replace(crops, flat=0.0), "cpu").cut(0, 256)
    assert (batch.std(dim=(1, 2, 3), unbiased=False) * 127.5).min() >= crops.flat_below
    shares = [
        (columns_and_rows(Batches(replace(crops, flat=f), "cpu").cut(0, 512))[:, 0] < 20).mean() for f in (1, 0.2)
    ]
    assert 0 < shares[1] < shares[0] / 2


def test_deviations_are_those_of_the_crops() -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    x, y = np.array([0, 3, 22]), np.array([12, 0, 5])
    expected = [values[b : b + SIZE, a : a + SIZE].astype(np.float64).std() for a, b in zip(x, y, strict=True)]
    assert np.allclose(deviations(summed(values), x, y, SIZE), expected)


def test_turns_are_the_eight_symmetries() -> None:
    crop = torch.arange(4.0).reshape(1, 1, 2, 2)
    made = turned(crop.expand(8, 1, 2, 2), turns=True)
    assert len({tuple(one.flatten().tolist()) for one in made}) == 8
    made = turned(crop.expand(4, 1, 2, 2), turns=False)
    assert [one.flatten().tolist() for one in made[:2]] == [[0, 1, 2, 3], [1, 0, 3, 2]]
    assert torch.equal(made[:2], made[2:])


def test_scales_and_other_sizes(crops: Crops) -> None:
    batches = Batches(replace(crops, scales=((1.0, 1.0), (2.0, 1.0))), "cpu")
    assert batches.cut(0, 4, 24).shape == (4, 3, 24, 24)  # of the picture at its own scale alone: its half is 20 high
    with pytest.raises(ImageError, match="no crop of 48x48 pixels fits"):
        batches.cut(0, 4, 48)


def test_a_picture_with_too_few_crops(crops: Crops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit_ref.training.batches.ATTEMPTS", 3)
    with pytest.raises(ImageError, match="no crop of 8x8 pixels found in 3 attempts"):
        Batches(replace(crops, without=(0, 0, 60, 40)), "cpu").cut(0, 4)


def test_paths_may_be_several(crops: Crops, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20), (255, 255, 255)).save(tmp_path / "white.png")
    batch = Batches(replace(crops, paths=[*crops.paths, tmp_path / "white.png"]), "cpu").cut(0, 256)
    white = (batch == 1).all(dim=(1, 2, 3)).float().mean()
    assert 0.3 < white < 0.7  # one half; 256 fair coins are outside with a chance of 1e-10
