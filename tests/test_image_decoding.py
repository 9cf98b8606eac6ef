"""Images and masks: every mode decodes right or is refused, and 8-bit values survive to the network and back."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import GREY, RGB, random_photo
from PIL import Image
from refusals import refusal

from sdedit.errors import ImageError
from sdedit.runtime.images import decoding, open_mask, open_picture, save_image

# Decoding


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBA", "LA", "PA", "RGBX"])
def test_a_uniform_image_of_any_mode_is_that_colour(mode: str) -> None:
    image = Image.new("RGB", (4, 3), "white").convert("L" if mode in ("LA", "PA") else "RGB").convert(mode)
    assert np.array_equal(np.asarray(open_picture(image, "guide").image), np.full((3, 4, 3), 255))


def test_grey_becomes_grey() -> None:
    decoded = np.asarray(open_picture(GREY, "guide").image)
    assert np.array_equal(decoded, np.repeat(GREY[..., None], 3, axis=2))


def test_a_network_of_one_channel_gets_grey() -> None:
    picture = open_picture(GREY, "guide", channels=1)
    assert np.array_equal(np.asarray(picture.image), GREY)


def test_a_palette_is_looked_up() -> None:
    palette = Image.fromarray(np.uint8([[0, 1, 2]]), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    decoded = np.asarray(open_picture(palette, "guide").image)
    assert decoded.tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]


def test_cmyk_is_ink() -> None:
    ink = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    assert open_picture(ink, "guide").image.getpixel((0, 0)) == (0, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bits_are_rounded_to_8(tmp_path: Path, dtype: type) -> None:
    values = np.array([[0, 128, 129, 385, 386, 65535]], dtype)
    path = tmp_path / "deep.tiff"
    Image.fromarray(values).save(path)
    assert np.asarray(open_picture(path, "guide", channels=1).image).tolist() == [[0, 0, 1, 1, 2, 255]]


def test_a_16_bit_png_keeps_its_greys(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
    assert np.array_equal(np.asarray(open_picture(path, "guide", channels=1).image), GREY)


def test_grey_beyond_16_bits_is_refused() -> None:
    for value in (-1, 65536):
        image = Image.fromarray(np.array([[value]], np.int32))
        assert refusal(open_picture, image, "guide") == "guide has grey values outside 0..65535"


def test_opaque_alpha_is_dropped() -> None:
    opaque = np.dstack([RGB, np.full(RGB.shape[:2], 255, np.uint8)])
    assert np.array_equal(np.asarray(open_picture(Image.fromarray(opaque), "guide").image), RGB)


def transparent_rgba() -> Image.Image:
    alpha = np.full(RGB.shape[:2], 255, np.uint8)
    alpha[2, 3] = 254
    return Image.fromarray(np.dstack([RGB, alpha]))


def transparent_palette() -> Image.Image:
    image = Image.fromarray(np.uint8([[0, 1]]), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.info["transparency"] = 1
    return image


def transparent_grey(dtype: type) -> Image.Image:
    image = Image.fromarray(np.array([[0, 200]], dtype))
    image.info["transparency"] = 200
    return image


@pytest.mark.parametrize(
    "image",
    [transparent_rgba(), transparent_palette(), transparent_grey(np.uint8), transparent_grey(np.uint16)],
    ids=lambda image: image.mode,
)
def test_transparent_pixels_are_refused(tmp_path: Path, image: Image.Image) -> None:
    path = tmp_path / "transparent.png"
    image.save(path)
    for source, title in ((image, "guide"), (path, f"guide {path}")):
        assert refusal(open_picture, source, "guide") == f"{title} has transparent pixels: flatten it first"


@pytest.mark.parametrize("image", [Image.new("F", (2, 2)), Image.new("LAB", (2, 2))], ids=lambda image: image.mode)
def test_modes_without_an_agreed_meaning_are_refused(image: Image.Image) -> None:
    assert "accepted are grey, palette, RGB and CMYK" in refusal(open_picture, image, "guide")


def test_a_network_of_other_channels_does_not_take_images() -> None:
    assert refusal(open_picture, RGB, "guide", 4) == "guide: a network of 4 channels does not take images"


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    path = tmp_path / "turned.png"
    Image.fromarray(RGB).save(path, exif=exif)
    upright = np.rot90(RGB, -1)
    for source in (path, Image.open(path)):
        assert np.array_equal(np.asarray(open_picture(source, "guide").image), upright)
        assert open_mask(source, (5, 7))[0].shape == (7, 5)


def test_a_picture_knows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "guide.png"
    Image.fromarray(RGB).save(path)
    named, also_named, unnamed = (open_picture(source, "guide") for source in (path, str(path), RGB))
    assert named.identity == also_named.identity
    assert named.identity["name"] == "guide.png"
    assert unnamed.name is None
    assert len({named.sha256, unnamed.sha256}) == 2


# What is no image


def test_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "nothing.png"
    assert refusal(open_picture, path, "guide") == f"guide {path} cannot be read: No such file or directory"


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(open_picture, tmp_path, "guide") == f"guide {tmp_path} cannot be read: Is a directory"


@pytest.mark.parametrize("name", ["nul\0.png", "a" * 300])
def test_a_name_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    assert "cannot be read: " in refusal(open_picture, tmp_path / name, "guide")
    assert "cannot be written: " in refusal(save_image, random_photo(2, 2), tmp_path / f"{name}.png", {})
    assert list(tmp_path.iterdir()) == []


def test_equal_bytes_of_another_shape_or_palette_are_another_source() -> None:
    flat = np.zeros((2, 8), np.uint8)
    red, blue = Image.fromarray(flat).convert("P"), Image.fromarray(flat).convert("P")
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    sources = [flat, flat.reshape(8, 2), red, blue]
    assert len({open_picture(source, "guide").sha256 for source in sources}) == len(sources)


@pytest.mark.parametrize("data", [b"", b"not an image\n", b"\x89PNG"])
def test_a_file_that_is_no_image(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "guide.png"
    path.write_bytes(data)
    expected = f"guide {path} is not an image of format PNG, JPEG, WEBP, TIFF, BMP, GIF, PPM, TGA"
    assert refusal(open_picture, path, "guide") == expected


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_truncated_png(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encoded(random_photo(64, 64), "PNG")[:-2000])
    assert refusal(open_picture, path, "mask").startswith(f"mask {path} is damaged: ")
    assert refusal(open_picture, Image.open(path), "mask").startswith("mask is damaged: ")


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.png"
    monkeypatch.setattr(decoding, "MAX_PIXELS", 100)
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA"):
        Image.new("RGB", (11, 10)).save(path, kind)
        expected = f"guide {path} is 11x10 pixels; at most 100 pixels are decoded"
        assert refusal(open_picture, path, "guide") == expected


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"]),
    at=st.integers(0, 10_000),
    change=st.binary(max_size=4),
    cut=st.booleans(),
)
def test_damaged_files_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, at: int, change: bytes, cut: bool
) -> None:
    data = encoded(Image.fromarray(RGB), kind)
    at %= len(data)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data[:at] + change + (b"" if cut else data[at + len(change) :]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = open_picture(path, "guide")
        except ImageError as error:
            message = str(error)
        else:
            message = f"read as {picture.image.mode}"
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.full((4, 4), None),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_that_are_no_image(array: np.ndarray) -> None:
    expected = f"guide is an array of {array.dtype} {list(array.shape)}; accepted are uint8 [H, W(, 3 or 4)]"
    assert refusal(open_picture, array, "guide") == expected


def test_an_image_without_pixels() -> None:
    expected = "guide is 0x5 pixels: there is nothing to see"
    assert refusal(open_picture, Image.new("RGB", (0, 5)), "guide") == expected


def test_arrays_need_not_be_contiguous() -> None:
    wide = np.repeat(RGB, 2, axis=1)
    assert np.array_equal(np.asarray(open_picture(wide[:, ::2], "guide").image), RGB)


# Masks


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([[0, 51, 255]], np.uint8), [[0, 0.2, 1]]),
        (np.array([[False, True, True]]), [[0, 1, 1]]),
        (np.array([[0, 0.25, 1]], np.float64), [[0, 0.25, 1]]),
        (np.array([[0, 0.25, 1]], np.float16), [[0, 0.25, 1]]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else None,
)
def test_masks_as_arrays(array: np.ndarray, expected: list[list[float]]) -> None:
    values, picture = open_mask(array, (3, 1))
    assert values.dtype == np.float32
    assert np.array_equal(values, np.float32(expected))
    assert picture.name is None


def test_a_mask_as_a_file_is_its_brightness(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.repeat(GREY[..., None], 3, axis=2)).save(path)
    values, picture = open_mask(path, (16, 16))
    assert np.array_equal(values, GREY / np.float32(255))
    assert picture.name == "mask.png"


def test_a_mask_of_another_size() -> None:
    expected = "mask is 7x5 pixels, the guide 5x7: they must be equal"
    assert refusal(open_mask, RGB, (5, 7)) == expected
    assert refusal(open_mask, np.ones((5, 7), bool), (5, 7)) == expected


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 1.01),
        np.full((2, 2), -0.01, np.float32),
        np.full((2, 2), np.nan),
        np.full((2, 2), np.inf),
        np.ones((2, 2, 1)),
        np.ones((2, 2), np.int64),
        np.ones((2, 2), complex),
        np.full((2, 2), "white"),
        np.ones((0, 0)),
        np.ones((2, 0), bool),
    ],
    ids=lambda array: f"{array.dtype} {array.shape} {array.flat[:1]}",
)
def test_arrays_that_are_no_mask(array: np.ndarray) -> None:
    message = refusal(open_mask, array, (2, 2))
    assert message == (
        f"mask is an array of {array.dtype} {list(array.shape)}; accepted: uint8, bool or float in [0, 1]; [H, W]"
    )
