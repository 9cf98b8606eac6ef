"""Images: a masked part at the photo's own scale, reflection to sides that a network takes, soft borders of masks."""

import logging
from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import contexts, photos_with_masks, random_photo
from PIL import Image

from sdedit.runtime.images.canvas import Canvas, own_scale_canvas, own_size_canvas, paste
from sdedit.runtime.images.masks import feathered

LEAST = (12, 8)
THRESHOLD = 0.1


def other_picture(canvas: Canvas) -> Image.Image:
    """A result that differs from the guide in every pixel."""
    return canvas.part.point(lambda value: 0 if value > 127 else 255)


# The part of the photo


@given(
    photo_and_mask=photos_with_masks(),
    context=contexts,
    multiple_of=st.integers(1, 9),
    max_pixels=st.integers(81, 10_000),
)
def test_outside_the_mask_every_byte_stays_at_every_scale(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float, multiple_of: int, max_pixels: int
) -> None:
    photo, mask = photo_and_mask
    before = np.asarray(photo).copy()
    canvas = own_scale_canvas(photo, mask, LEAST, multiple_of, max_pixels, context, THRESHOLD)
    assert canvas.part.size == canvas.mask.shape[::-1]
    assert not any(side % multiple_of for side in canvas.part.size)
    assert prod(canvas.part.size) <= max_pixels
    after = np.asarray(paste(canvas, other_picture(canvas), exact=True))
    assert np.array_equal(after[mask == 0], before[mask == 0])
    assert np.array_equal(np.asarray(photo), before)


@given(photo_and_mask=photos_with_masks(), context=contexts, multiple_of=st.integers(1, 9))
def test_a_part_that_is_small_enough_is_the_photos_own_pixels(
    photo_and_mask: tuple[Image.Image, np.ndarray], context: float, multiple_of: int
) -> None:
    photo, mask = photo_and_mask
    canvas = own_scale_canvas(photo, mask, LEAST, multiple_of, 100_000, context, THRESHOLD)
    left, top, right, bottom = canvas.box
    assert canvas.inner == (right - left, bottom - top)
    assert np.array_equal(
        np.asarray(canvas.part)[: bottom - top, : right - left], np.asarray(photo)[top:bottom, left:right]
    )
    assert np.array_equal(canvas.mask[: bottom - top, : right - left], mask[top:bottom, left:right])
    assert (mask[top:bottom, left:right] > 0).sum() == (mask > 0).sum()
    assert right - left >= min(LEAST[0], photo.width)
    assert bottom - top >= min(LEAST[1], photo.height)
    for side, limit in zip(canvas.inner, photo.size, strict=True):
        assert side % multiple_of == 0 or side == limit  # only a photo that ends is reflected
    assert np.array_equal(np.asarray(paste(canvas, canvas.part, exact=False)), np.asarray(photo))


def test_what_is_beyond_the_photo_is_its_reflection() -> None:
    photo = random_photo(5, 3)
    canvas = own_size_canvas(photo, 4)
    values = np.asarray(photo)
    assert canvas.part.size == (8, 4)
    assert np.array_equal(np.asarray(canvas.part), np.pad(values, ((0, 1), (0, 3), (0, 0)), mode="symmetric"))
    assert np.array_equal(np.asarray(paste(canvas, canvas.part, exact=True)), values)


def test_a_part_that_is_reduced_is_said_with_its_scale(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((80, 120), np.float32)
    mask[20:60, 20:100] = 1
    with caplog.at_level(logging.WARNING, "sdedit"):
        canvas = own_scale_canvas(random_photo(120, 80), mask, LEAST, 4, 800, 0, THRESHOLD)
    assert canvas.part.size == (40, 20)
    expected = "mask is edited at 50 % of the photo's scale: with its margin it is 80x40 pixels, and at most 800 are"
    assert expected in caplog.text


def test_a_part_that_is_long_and_thin_keeps_to_the_area() -> None:
    mask = np.ones((1, 2000), np.float32)
    canvas = own_scale_canvas(random_photo(2000, 1), mask, LEAST, 8, 1024, 0, THRESHOLD)
    assert canvas.part.size == (128, 8)


# Soft borders


@given(photo_and_mask=photos_with_masks(), pixels=st.integers(0, 12))
def test_a_soft_border_never_leaves_the_mask(photo_and_mask: tuple[Image.Image, np.ndarray], pixels: int) -> None:
    _, mask = photo_and_mask
    before = mask.copy()
    soft = feathered(mask, pixels, THRESHOLD)
    assert ((soft >= np.float32(THRESHOLD)) == (mask >= np.float32(THRESHOLD))).all()
    assert (soft[mask == 0] == 0).all()
    assert (soft <= mask).all()
    assert np.array_equal(mask, before)
    assert feathered(mask, 0, THRESHOLD) is mask


@given(photo_and_mask=photos_with_masks(), pixels=st.integers(1, 6))
def test_values_rise_with_the_distance_to_black(photo_and_mask: tuple[Image.Image, np.ndarray], pixels: int) -> None:
    _, values = photo_and_mask
    mask = (values > 0).astype(np.float32)
    soft = feathered(mask, pixels, 0.01)
    inside, black = np.argwhere(mask), np.argwhere(mask == 0)
    own = between(inside, black).min(axis=1, initial=np.inf)
    around = abs(inside[:, None] - inside).max(axis=2) <= pixels
    widest = np.where(around, own, 0).max(axis=1, initial=0)
    wanted = np.minimum(own, pixels + 1) / np.minimum(widest, pixels + 1)
    assert soft[tuple(inside.T)] == pytest.approx(wanted, rel=1e-6)


def between(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The distance of every point [y, x] to every other one."""
    return np.hypot(*np.moveaxis(points[:, None] - others, 2, 0))


def test_a_wide_mask_rises_in_equal_steps_and_a_thin_stroke_stays() -> None:
    mask = np.zeros((30, 40), np.float32)
    mask[5:25, 5:25] = 1
    mask[:, 35] = 1
    soft = feathered(mask, 3, 0.01)
    assert soft[15, 4:10].tolist() == [0, 0.25, 0.5, 0.75, 1, 1]
    assert (soft[:, 35] == 1).all()
