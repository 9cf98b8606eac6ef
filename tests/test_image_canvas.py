"""Images: the box that is edited, the way of a photo to the model's size, and the paste keep their laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import GREY, contexts, photos_with_masks, random_photo, sides
from PIL import Image
from refusals import refusal

from sdedit.runtime.images.canvas import FITS, Canvas, masked_canvas, paste, whole_canvas

MODEL = (12, 8)
"""Picture size of the network in these tests: not square, so that no two sides can be mixed up."""


# The part of the photo that is edited

THRESHOLD = 0.1
"""Least value of a mask that edits at all."""


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
    width, height = MODEL
    left, top, right, bottom = masked_canvas(photo, mask, MODEL, context, THRESHOLD).box
    assert right - left >= min(width, photo.width)
    assert bottom - top >= min(height, photo.height)


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_the_box_has_the_models_aspect_where_the_photo_has_room(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float
) -> None:
    photo, mask = photo_and_mask
    width, height = MODEL
    left, top, right, bottom = masked_canvas(photo, mask, MODEL, context, THRESHOLD).box
    if right - left < photo.width and bottom - top < photo.height:
        assert abs((right - left) / width - (bottom - top) / height) < 1 / min(width, height)


@given(context=contexts)
def test_the_box_of_a_photo_of_the_models_size_is_the_photo(context: float) -> None:
    photo = random_photo(12, 8)
    canvas = masked_canvas(photo, np.ones((8, 12), np.float32), MODEL, context, THRESHOLD)
    assert canvas.box == (0, 0, 12, 8)
    assert np.array_equal(np.asarray(canvas.part), np.asarray(photo))


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
    after = np.asarray(paste(canvas, other_picture(canvas), exact=True))
    assert ((after != np.asarray(photo)).any(axis=2) == (mask >= np.float32(THRESHOLD))).all()


def test_a_mask_that_edits_nothing_is_refused() -> None:
    nearly = "The mask is nearly black: its brightest value is 0.004, and editing starts at 0.1. "
    nearly += "For masks of 0 and 1, use bool or multiply by 255."
    for brightest, expected in (
        (0.0, "The mask is black, so it edits nothing. White edits, black keeps."),
        (0.004, nearly),
    ):
        mask = np.full((8, 12), brightest, np.float32)
        assert refusal(masked_canvas, random_photo(12, 8), mask, MODEL, 0, THRESHOLD) == expected


def other_picture(canvas: Canvas) -> Image.Image:
    """A result that differs from the guide in every pixel."""
    return canvas.part.point(lambda value: 0 if value > 127 else 255)


@settings(deadline=None)
@given(photo_and_mask=photos_with_masks(), context=contexts)
def test_outside_the_mask_every_byte_stays(photo_and_mask: tuple[Image.Image, np.ndarray], context: float) -> None:
    photo, mask = photo_and_mask
    before = np.asarray(photo).copy()
    canvas = masked_canvas(photo, mask, MODEL, context, THRESHOLD)
    after = np.asarray(paste(canvas, other_picture(canvas), exact=True))
    assert after.shape == before.shape
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert np.array_equal(np.asarray(photo), before)


def test_the_whole_mask_changes() -> None:
    photo = random_photo(12, 8)
    mask = np.zeros((8, 12), np.float32)
    mask[2:5, 3:9] = 0.5
    canvas = masked_canvas(photo, mask, MODEL, 0.25, THRESHOLD)
    after = np.asarray(paste(canvas, other_picture(canvas), exact=True))
    assert (after != np.asarray(photo)).all(axis=2).tolist() == (mask > 0).tolist()


def test_where_the_keep_rule_is_not_exact_the_box_is_returned_as_computed() -> None:
    photo = random_photo(40, 30)
    mask = np.zeros((30, 40), np.float32)
    mask[10, 10] = 1
    canvas = masked_canvas(photo, mask, MODEL, 0, THRESHOLD)
    left, top, right, bottom = canvas.box
    after = np.asarray(paste(canvas, other_picture(canvas), exact=False))
    changed = (after != np.asarray(photo)).all(axis=2)
    assert changed[top:bottom, left:right].all()
    assert changed.sum() == 12 * 8


def test_a_photo_of_one_channel_is_pasted_too() -> None:
    photo = Image.fromarray(GREY)
    mask = np.zeros((16, 16), np.float32)
    mask[4:6, 4:6] = 1
    canvas = masked_canvas(photo, mask, MODEL, 0, THRESHOLD)
    after = paste(canvas, other_picture(canvas), exact=True)
    assert after.mode == "L"
    assert np.array_equal(np.asarray(after)[mask == 0], GREY[mask == 0])


# Without a mask


@settings(deadline=None)
@given(width=sides, height=sides, fit=st.sampled_from(FITS))
def test_the_whole_photo_is_brought_to_the_models_size(width: int, height: int, fit: str) -> None:
    canvas = whole_canvas(random_photo(width, height), MODEL, fit)
    assert canvas.part.size == MODEL
    assert np.array_equal(canvas.mask, np.ones((8, 12)))
    assert paste(canvas, canvas.part, exact=True).size == MODEL


@pytest.mark.parametrize("fit", FITS)
def test_a_photo_of_the_models_size_is_taken_as_it_is(fit: str) -> None:
    photo = random_photo(12, 8)
    canvas = whole_canvas(photo, MODEL, fit)
    assert np.array_equal(np.asarray(canvas.part), np.asarray(photo))


def bars() -> Image.Image:
    """Red, white and blue, 36 x 8."""
    values = np.full((8, 36, 3), 255, np.uint8)
    values[:, :12] = (255, 0, 0)
    values[:, 24:] = (0, 0, 255)
    return Image.fromarray(values)


def test_crop_takes_the_middle() -> None:
    assert (np.asarray(whole_canvas(bars(), MODEL, "crop").part)[:, 1:-1] > 242).all()


def test_stretch_keeps_all_of_it() -> None:
    part = np.asarray(whole_canvas(bars(), MODEL, "stretch").part)
    assert np.array_equal(np.rint(part[4, [1, 6, 10]] / 255), [[1, 0, 0], [1, 1, 1], [0, 0, 1]])


def test_pad_adds_black() -> None:
    part = np.asarray(whole_canvas(bars(), MODEL, "pad").part)
    rows = (part > 0).any(axis=(1, 2))
    assert rows.tolist() == [False, False, True, True, True, False, False, False]


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1)])
def test_pad_does_not_lose_the_thinnest_photo(size: tuple[int, int]) -> None:
    assert (np.asarray(whole_canvas(Image.new("RGB", size, "white"), MODEL, "pad").part) == 255).any()
