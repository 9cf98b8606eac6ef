"""Crops for training: functions of their number, apart from what is held out, and pictures that give none."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import write_even
from PIL import ExifTags, Image

from sdedit.errors import ImageError
from sdedit_ref.training.crops import Crops, decoded, find_pictures, parse_scales, parse_sides, split


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
    return write_even(tmp_path_factory.mktemp("folder"))


def pixels(crop: np.ndarray) -> np.ndarray:
    return np.rint((crop + 1) * 127.5).astype(int)


def test_a_crop_is_a_function_of_seed_and_number(picture: Path) -> None:
    crops = Crops([picture], 8, seed=3, scales=[(1, 0.5), (2, 0.5)], turns=True)
    assert np.array_equal(crops[7], crops[7])
    assert not np.array_equal(crops[7], crops[8])
    assert not np.array_equal(crops[7], dataclasses.replace(crops, seed=4)[7])
    assert crops[0].shape == (3, 8, 8)
    assert crops[0].dtype == np.float32


def test_crops_reach_every_place_and_both_mirror_images(picture: Path) -> None:
    crops = [pixels(Crops([picture], 8, seed=0)[i]) for i in range(400)]
    lefts = {int(crop[0].min()) for crop in crops}
    assert lefts == set(range(60 - 8 + 1))
    assert {int(np.sign(crop[0, 0, 1] - crop[0, 0, 0])) for crop in crops} == {-1, 1}
    assert all(crop[1, 1, 0] == crop[1, 0, 0] + 1 for crop in crops), "without turns up stays up"


@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1.0, 1.5, 2.0]),
    width=st.integers(58, 61),
    corner=st.tuples(st.integers(0, 28), st.integers(0, 4) | st.integers(16, 20)),  # a crop fits above it or below
)
@settings(max_examples=60, deadline=None)
def test_training_shares_no_pixel_with_what_is_held_out(
    tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float, width: int, corner: tuple[int, int]
) -> None:
    """The held-out part is white, up to the picture's edges: held-out crops are white, training crops have no white."""
    left, top = corner
    box = (left, top, left + 30, top + 20)
    picture = tmp_path_factory.mktemp("marked") / "box.png"
    values = np.zeros((40, width, 3), np.uint8)
    values[top : top + 20, left : left + 30] = 255
    Image.fromarray(values).save(picture)
    kept, held_out = split([picture], ",".join(map(str, box)), 8, seed, [(scale, 1.0)], 1.0, False)
    for index in range(5):
        assert (held_out[index] == 1).all()
        assert (kept[index] == -1).all()


def test_a_reduced_picture_is_the_mean_of_what_its_pixels_cover(picture: Path) -> None:
    half = decoded(picture, 2.0)
    assert half.shape == (20, 30, 3)
    assert np.abs(half[3, :, 0] - (2 * np.arange(30) + 0.5)).max() <= 0.5


def test_a_photo_is_upright(tmp_path: Path) -> None:
    """A photo is turned as its camera noted: red is at the left of the file and at the top of the photo."""
    values = np.zeros((8, 16, 3), np.uint8)
    values[:, :8, 0] = 255
    note = Image.Exif()
    note[ExifTags.Base.Orientation] = 6
    Image.fromarray(values).save(tmp_path / "photo.png", exif=note)
    turned = decoded(tmp_path / "photo.png", 1.0)
    assert turned.shape == (16, 8, 3)
    assert (turned[:8, :, 0] == 255).all()
    with pytest.raises(ImageError, match=r"photo\.png is 8x16 pixels, smaller than the crop of 12x12"):
        find_pictures(tmp_path, 12)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (Image.fromarray(np.full((9, 9), 40_000, np.uint16)), "has more than 8 bits a channel"),
        (Image.new("F", (9, 9)), "has more than 8 bits a channel"),
        (Image.new("RGBA", (9, 9), (1, 2, 3, 254)), "has transparent pixels: flatten it first"),
    ],
)
def test_pictures_that_would_not_be_what_they_look_like(picture: Image.Image, message: str, tmp_path: Path) -> None:
    picture.save(tmp_path / "strange.tif")
    with pytest.raises(ImageError, match=message):
        decoded(tmp_path / "strange.tif", 1.0)


def test_pictures_may_be_larger_than_a_process_opens_and_its_limit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    monkeypatch.setattr(Image.Image, "convert", lambda image, mode: limits.append(Image.MAX_IMAGE_PIXELS) or image)
    for kind in ("png", "jpg", "bmp", "ppm"):
        Image.new("RGB", (9, 9), (1, 2, 3)).save(tmp_path / f"large.{kind}")
        assert find_pictures(tmp_path / f"large.{kind}", 8)
        assert decoded(tmp_path / f"large.{kind}", 1.0).shape == (9, 9, 3)
    assert limits == [10] * 4


def test_an_alpha_channel_of_an_opaque_picture_is_no_matter(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (1, 2, 3, 255)).save(tmp_path / "opaque.png")
    assert (decoded(tmp_path / "opaque.png", 1.0) == (1, 2, 3)).all()


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
        ("x", "'x' is not a list of whole numbers"),
        ("2", "hold-out '2' fits neither"),
        ("0,0,100,20", "is not a box of at least 8x8 in"),
        ("0,0,4,20", "is not a box of at least 8x8 in"),
    ],
)
def test_a_hold_out_that_is_none(picture: Path, text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        split([picture], text, 8, 0, [(1, 1)], 1.0, False)


@pytest.mark.parametrize("text", ["", "0.5", "1:0", "2:x", "1:nan", "inf", "1,,2"])
def test_scales_that_are_none(text: str) -> None:
    with pytest.raises(ImageError, match="is not a list of SCALE:CHANCE"):
        parse_scales(text)


def test_sides_and_their_chances() -> None:
    assert parse_sides("64:0.5,128", 8) == [(64, 0.5), (128, 1.0)]


@pytest.mark.parametrize("text", ["", "8,9", "8:0", "0", "-8", "8:x", "nan", "8.5", "8,,16"])
def test_sides_that_are_none(text: str) -> None:
    with pytest.raises(ImageError, match="is not a list of SIDE:CHANCE with multiples of 8 and CHANCE > 0"):
        parse_sides(text, 8)


def test_pictures_that_cannot_be_trained_on(tmp_path: Path, picture: Path) -> None:
    with pytest.raises(ImageError, match="has no images"):
        find_pictures(tmp_path, 8)
    with pytest.raises(ImageError, match="cannot be read"):
        find_pictures(tmp_path / "nowhere.png", 8)
    with pytest.raises(ImageError, match="/dev/zero is not a file"):
        find_pictures(Path("/dev/zero"), 8)
    with pytest.raises(ImageError, match=r"ramp.png is 60x40 pixels, smaller than the crop of 48x48$"):
        find_pictures(picture, 48)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match="is not an image"):
        find_pictures(tmp_path, 8)
