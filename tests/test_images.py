"""Images: every mode decodes right or is refused, the box and the paste keep their laws, saving is all or nothing."""

import io
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdedit.errors import ImageError
from sdedit.runtime.images import (
    FITS,
    Canvas,
    check_output,
    check_placement,
    masked_canvas,
    open_mask,
    open_picture,
    paste,
    save_png,
    to_image,
    to_state,
    whole_canvas,
)

MODEL = (3, 8, 12)
"""C, H, W of the network in these tests: not square, so that no two sides can be mixed up."""

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def random_photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def refusal(action: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(ImageError) as caught:
        action(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Values


def test_every_8_bit_value_survives_the_way_to_the_network_and_back() -> None:
    state = to_state(Image.fromarray(GREY))
    assert (state.shape, state.dtype) == ((1, 16, 16), np.float32)
    assert (state.min(), state.max()) == (-1, 1)
    assert np.array_equal(np.asarray(to_image(state)), GREY)


def test_channels_come_first_in_a_state() -> None:
    state = to_state(Image.fromarray(RGB))
    assert state.shape == (3, 5, 7)
    assert state.flags.c_contiguous
    assert np.array_equal(state[1], RGB[..., 1] / np.float32(127.5) - np.float32(1))
    assert np.array_equal(np.asarray(to_image(state)), RGB)


def test_values_beyond_the_range_are_clamped_and_halves_go_to_the_even_number() -> None:
    state = np.float32([[[-9, -1.01, 1.01, 9, 0, 0.99607843]]])
    assert np.asarray(to_image(state)).tolist() == [[0, 0, 255, 255, 128, 254]]


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
    for source in (image, path):
        assert refusal(open_picture, source, "guide") == "guide has transparent pixels: flatten it first"


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
    assert "cannot be written: " in refusal(save_png, random_photo(2, 2), tmp_path / f"{name}.png", {})
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
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (11, 23):  # more than 100 pixels, of which Pillow only warns, and more than 200, which it refuses
        Image.new("RGB", (side, side)).save(path)
        assert refusal(open_picture, path, "guide") == f"guide {path} is larger than 100 pixels"


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
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((), np.uint8),
        np.full((4, 4), None),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_arrays_that_are_no_image(array: np.ndarray) -> None:
    expected = f"guide is an array of {array.dtype} {list(array.shape)}; accepted are uint8 [H, W(, 3)]"
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


# The part of the photo that is edited

sides = st.integers(1, 60)


@st.composite
def photos_with_masks(draw: st.DrawFn) -> tuple[Image.Image, np.ndarray]:
    """A photo of any size and a mask with a box and some dots, or nothing at all."""
    width, height = draw(sides), draw(sides)
    mask = np.zeros((height, width), np.float32)
    left, right = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    top, bottom = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    mask[top:bottom, left:right] = draw(st.sampled_from([0.5, 1]))
    for _ in range(draw(st.integers(1, 3))):
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1
    return random_photo(width, height), mask


THRESHOLD = 0.1
"""Of the mask's values that edit at all."""

contexts = st.one_of(st.floats(0, 3), st.sampled_from([0.25, 1e308]))


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_the_box_lies_in_the_photo_and_contains_the_mask(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float
) -> None:
    photo, mask = photo_and_mask
    left, top, right, bottom = masked_canvas(photo, mask, MODEL, context, THRESHOLD).box
    assert 0 <= left < right <= photo.width
    assert 0 <= top < bottom <= photo.height
    assert (mask[top:bottom, left:right] > 0).sum() == (mask > 0).sum()


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_the_box_is_as_large_as_the_model_where_the_photo_is(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float
) -> None:
    photo, mask = photo_and_mask
    _, height, width = MODEL
    left, top, right, bottom = masked_canvas(photo, mask, MODEL, context, THRESHOLD).box
    assert right - left >= min(width, photo.width)
    assert bottom - top >= min(height, photo.height)


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_the_box_has_the_models_aspect_where_the_photo_has_room(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float
) -> None:
    photo, mask = photo_and_mask
    _, height, width = MODEL
    left, top, right, bottom = masked_canvas(photo, mask, MODEL, context, THRESHOLD).box
    if right - left < photo.width and bottom - top < photo.height:
        assert abs((right - left) / width - (bottom - top) / height) < 1 / min(width, height)


@given(context=contexts)
def test_the_box_of_a_photo_of_the_models_size_is_the_photo(context: float) -> None:
    photo = random_photo(12, 8)
    canvas = masked_canvas(photo, np.ones((8, 12), np.float32), MODEL, context, THRESHOLD)
    assert canvas.box == (0, 0, 12, 8)
    assert np.array_equal(canvas.guide, to_state(photo))


def test_the_context_grows_the_box_on_each_side() -> None:
    mask = np.zeros((80, 120), np.float32)
    mask[32:48, 48:72] = 1  # twice the model's size, in the middle
    boxes = [masked_canvas(random_photo(120, 80), mask, MODEL, context, THRESHOLD).box for context in (0, 0.5, 1)]
    assert boxes == [(48, 32, 72, 48), (36, 24, 84, 56), (24, 16, 96, 64)]


def test_no_stroke_is_too_thin_for_the_models_mask() -> None:
    """Single pixels of a photo twenty times as large: each is edited, in the cell it lies in."""
    mask = np.zeros((160, 240), np.float32)
    mask[0, 0] = mask[159, 239] = mask[77, 13] = 1
    canvas = masked_canvas(random_photo(240, 160), mask, MODEL, 0, THRESHOLD)
    assert canvas.box == (0, 0, 240, 160)
    assert np.argwhere(canvas.mask == 1).tolist() == [[0, 0], [3, 0], [7, 11]]


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_models_mask_edits_wherever_a_pixel_changes(height: int, width: int, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < 0.2).astype(np.float32)
    mask[seed % height, seed % width] = 1
    canvas = masked_canvas(random_photo(width, height), mask, MODEL, 0.25, THRESHOLD)
    left, top, right, bottom = canvas.box
    assert canvas.change is not None
    assert set(np.unique(canvas.mask)) <= {0, 1}
    for y, x in np.argwhere(canvas.change):
        row = max(i for i in range(8) if i * (bottom - top) // 8 <= y - top)
        column = max(j for j in range(12) if j * (right - left) // 12 <= x - left)
        assert canvas.mask[row, column] == 1


def test_what_is_below_the_threshold_stays() -> None:
    photo = random_photo(40, 30)
    mask = np.full((30, 40), THRESHOLD / 2, np.float32)  # the dirt of a scanner
    mask[10:14, 10:14] = THRESHOLD
    canvas = masked_canvas(photo, mask, MODEL, 0, THRESHOLD)
    after = np.asarray(paste(canvas, other_state(canvas), exact=True))
    assert ((after != np.asarray(photo)).any(axis=2) == (mask >= np.float32(THRESHOLD))).all()


@pytest.mark.parametrize(("brightest", "said"), [(0.0, "0"), (0.004, "0.004")])
def test_a_mask_that_edits_nothing_is_refused(brightest: float, said: str) -> None:
    mask = np.full((8, 12), brightest, np.float32)
    message = refusal(masked_canvas, random_photo(12, 8), mask, MODEL, 0, THRESHOLD)
    expected = f"mask edits nothing: its brightest value is {said}, with white 1, and t0 and steps edit from 0.1 on"
    assert message == expected


@pytest.mark.parametrize("context", [-0.1, float("inf"), float("nan")])
def test_a_context_that_is_refused(context: float) -> None:
    assert refusal(check_placement, "crop", context) == f"context {context} is not at least 0"


def other_state(canvas: Canvas) -> np.ndarray:
    """A result that differs from the guide in every pixel."""
    return np.where(canvas.guide > 0, np.float32(-1), np.float32(1))


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_outside_the_mask_every_byte_stays(photo_and_mask: tuple[Image.Image, np.ndarray], context: float) -> None:
    photo, mask = photo_and_mask
    before = np.asarray(photo).copy()
    canvas = masked_canvas(photo, mask, MODEL, context, THRESHOLD)
    after = np.asarray(paste(canvas, other_state(canvas), exact=True))
    assert after.shape == before.shape
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert np.array_equal(np.asarray(photo), before)


def test_the_whole_mask_changes() -> None:
    photo = random_photo(12, 8)
    mask = np.zeros((8, 12), np.float32)
    mask[2:5, 3:9] = 0.5
    canvas = masked_canvas(photo, mask, MODEL, 0.25, THRESHOLD)
    after = np.asarray(paste(canvas, other_state(canvas), exact=True))
    assert (after != np.asarray(photo)).all(axis=2).tolist() == (mask > 0).tolist()


def test_where_the_keep_rule_is_not_exact_the_box_is_returned_as_computed() -> None:
    photo = random_photo(40, 30)
    mask = np.zeros((30, 40), np.float32)
    mask[10, 10] = 1
    canvas = masked_canvas(photo, mask, MODEL, 0, THRESHOLD)
    left, top, right, bottom = canvas.box
    after = np.asarray(paste(canvas, other_state(canvas), exact=False))
    changed = (after != np.asarray(photo)).all(axis=2)
    assert changed[top:bottom, left:right].all()
    assert changed.sum() == 12 * 8


def test_a_photo_of_one_channel_is_pasted_too() -> None:
    photo = Image.fromarray(GREY)
    mask = np.zeros((16, 16), np.float32)
    mask[4:6, 4:6] = 1
    canvas = masked_canvas(photo, mask, (1, 8, 12), 0, THRESHOLD)
    after = paste(canvas, other_state(canvas), exact=True)
    assert after.mode == "L"
    assert np.array_equal(np.asarray(after)[mask == 0], GREY[mask == 0])


# Without a mask


@settings(deadline=None)
@given(width=sides, height=sides, fit=st.sampled_from(FITS))
def test_the_whole_photo_is_brought_to_the_models_size(width: int, height: int, fit: str) -> None:
    canvas = whole_canvas(random_photo(width, height), MODEL, fit)
    assert canvas.guide.shape == MODEL
    assert np.array_equal(canvas.mask, np.ones(MODEL[1:]))
    assert paste(canvas, canvas.guide, exact=True).size == (12, 8)


@pytest.mark.parametrize("fit", FITS)
def test_a_photo_of_the_models_size_is_taken_as_it_is(fit: str) -> None:
    photo = random_photo(12, 8)
    canvas = whole_canvas(photo, MODEL, fit)
    assert np.array_equal(np.asarray(to_image(canvas.guide)), np.asarray(photo))


def bars() -> Image.Image:
    """Red, white and blue, 36 x 8."""
    values = np.full((8, 36, 3), 255, np.uint8)
    values[:, :12] = (255, 0, 0)
    values[:, 24:] = (0, 0, 255)
    return Image.fromarray(values)


def test_crop_takes_the_middle() -> None:
    assert (whole_canvas(bars(), MODEL, "crop").guide[:, :, 1:-1] > 0.9).all()


def test_stretch_keeps_all_of_it() -> None:
    guide = whole_canvas(bars(), MODEL, "stretch").guide
    assert np.array_equal(np.rint(guide[:, 4, [1, 6, 10]].T), [[1, -1, -1], [1, 1, 1], [-1, -1, 1]])


def test_pad_adds_black() -> None:
    guide = whole_canvas(bars(), MODEL, "pad").guide
    rows = (guide > -1).any(axis=(0, 2))
    assert rows.tolist() == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1)])
def test_pad_does_not_lose_the_thinnest_photo(size: tuple[int, int]) -> None:
    assert (whole_canvas(Image.new("RGB", size, "white"), MODEL, "pad").guide == 1).any()


def test_an_unknown_fit() -> None:
    expected = "fit 'zoom' is not one of crop, pad, stretch"
    assert refusal(check_placement, "zoom", 0.25) == expected


# Saving


def test_a_png_keeps_pixels_and_texts(tmp_path: Path) -> None:
    path = tmp_path / "out.PNG"
    recipe = json.dumps({"guide": "żółw.png", "long": "x" * 10_000})
    save_png(Image.fromarray(RGB), path, {"sdedit": recipe})
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(image), RGB)
        assert image.text == {"sdedit": recipe}  # type: ignore[attr-defined] # PNG alone has it
    assert list(tmp_path.iterdir()) == [path]


def test_a_png_has_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    save_png(Image.fromarray(RGB), tmp_path / "out.png", {})
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 251 + ".png")
    save_png(Image.fromarray(RGB), path, {})
    assert path.is_file()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_in_the_middle_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(self: Image.Image, file: io.BufferedWriter, *arguments: object, **options: object) -> None:
        file.write(b"\x89PNG half of it")
        raise error

    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises((ImageError, KeyboardInterrupt)) as caught:
        save_png(Image.fromarray(RGB), path, {})
    assert str(caught.value) in (f"output {path} cannot be written: No space left on device", "")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["out.jpg", "out", "out.png.txt", ".png"])
def test_only_png_is_written(tmp_path: Path, name: str) -> None:
    message = refusal(save_png, Image.fromarray(RGB), tmp_path / name, {})
    assert "does not end in .png: only PNG keeps every byte and the recipe" in message
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "out.png"
    assert refusal(check_output, path) == f"output {path}: there is no folder {path.parent}"


def test_a_folder_as_the_output(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.mkdir()
    assert refusal(check_output, path) == f"output {path} is a folder"


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / "out.png"
    assert refusal(check_output, path) == f"output {path}: the folder {tmp_path} is not writable"
