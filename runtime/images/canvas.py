"""The part of a photo that is edited: its box, the mask there, and putting the result back."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from sdedit.errors import ImageError

from .decoding import times

TOLERATED = 12
"""Of 255: what most pixels of two saves of one photo as JPEG differ by at most; files without loss are exact."""

GROW = 4
"""Pixels that a mask made of two photos is grown by: a stroke's soft edge, and room to blend in."""

FITS = ("crop", "pad", "stretch")


@dataclass(frozen=True)
class Canvas:
    """What is edited: `box` (left, top, right, bottom) of the photo at the network's size, and where it changes.

    guide: float32 [C, H, W] in [-1, 1]. mask: float32 [H, W] in [0, 1]. change: bool [h, w] over the photo, or None
    where the result is the whole image.
    """

    photo: Image.Image
    box: tuple[int, int, int, int]
    guide: np.ndarray
    mask: np.ndarray
    change: np.ndarray | None


def difference_mask(guide: Image.Image, base: Image.Image) -> np.ndarray:
    """Where `guide` was painted over `base`, grown by GROW pixels: float32 [H, W], 0 or 1. Raises ImageError.

    A pixel is painted where a channel differs by more than TOLERATED, so that a JPEG's noise is no stroke.
    """
    if guide.size != base.size:
        raise ImageError(f"base is {times(base.size)} pixels, the guide {times(guide.size)}: they must be equal")
    differences = np.asarray(ImageChops.difference(guide, base))
    painted = differences.reshape(*differences.shape[:2], -1).max(axis=2) > TOLERATED
    if not painted.any():
        raise ImageError(f"base and guide differ nowhere by more than {TOLERATED} of 255: nothing was painted")
    grown = Image.fromarray(painted.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * GROW + 1))
    return np.asarray(grown, np.float32)


def check_placement(fit: str, context: float) -> None:
    """Raise ImageError unless both are accepted, whichever of them an edit uses."""
    if fit not in FITS:
        raise ImageError(f"fit {fit!r} is not one of {', '.join(FITS)}")
    if not 0 <= context < math.inf:
        raise ImageError(f"context {context} is not at least 0")


def whole_canvas(photo: Image.Image, shape: tuple[int, int, int], fit: str) -> Canvas:
    """The photo brought to the network's size by `fit`, all of it editable."""
    _, height, width = shape
    size = (width, height)
    if photo.size != size:
        if fit == "crop":
            photo = ImageOps.fit(photo, size, Image.Resampling.LANCZOS)
        elif fit == "pad":
            photo = _pad(photo, size)
        else:
            photo = photo.resize(size, Image.Resampling.LANCZOS)
    return Canvas(photo, (0, 0, *size), to_state(photo), np.ones((height, width), np.float32), None)


def masked_canvas(
    photo: Image.Image, mask: np.ndarray, shape: tuple[int, int, int], context: float, threshold: float
) -> Canvas:
    """The box around what the mask edits, grown by `context` of its size on each side, to the network's aspect.

    It is never smaller than the network's image, so that no small mask is edited enlarged, unless the photo is; where
    the photo is too small for the aspect, the box is stretched. threshold: the mask's values from which on a pixel is
    edited at all. Raises ImageError where none is.
    """
    change = mask >= np.float32(threshold)
    if not change.any():
        raise ImageError(
            f"mask edits nothing: its brightest value is {mask.max():.3g}, with white 1, and t0 and steps edit from "
            f"{threshold:.3g} on"
        )
    _, height, width = shape
    box = _context_box(change, (height, width), context)
    left, top, right, bottom = box
    part = photo.crop(box)
    small = mask[top:bottom, left:right]
    if part.size != (width, height):
        part = part.resize((width, height), Image.Resampling.LANCZOS)
        small = _reduce_mask(small, (height, width))
    return Canvas(photo, box, to_state(part), np.ascontiguousarray(small), change)


def _reduce_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The maximum over each cell, or the nearest value: no stroke is too thin for it, and no new greys appear."""
    for axis, count in enumerate(size):
        starts = np.arange(count) * mask.shape[axis] // count
        mask = np.maximum.reduceat(mask, starts, axis=axis)
    return mask


def paste(canvas: Canvas, edited: Image.Image, exact: bool) -> Image.Image:
    """The photo with the edited box put back: where the mask is, or all of the box if the keep rule is not `exact`."""
    if canvas.change is None:
        edited.info["icc_profile"] = canvas.photo.info.get("icc_profile")
        return edited
    left, top, right, bottom = canvas.box
    if edited.size != (right - left, bottom - top):
        edited = edited.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    out = canvas.photo.copy()
    where = Image.fromarray(canvas.change[top:bottom, left:right]) if exact else None
    out.paste(edited, (left, top), where)
    return out


def to_state(image: Image.Image) -> np.ndarray:
    """8-bit values u become u / 127.5 - 1: float32 [C, H, W]."""
    values = np.atleast_3d(np.asarray(image, np.float32)) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def to_image(state: np.ndarray) -> Image.Image:
    """The inverse of `to_state`: rint((x + 1) 127.5), clamped to 0..255."""
    values = np.clip(np.rint((state + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0).copy())


def _pad(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole photo in the middle of a black image; even the thinnest keeps a pixel, which ImageOps.pad drops."""
    scale = min(size[0] / photo.width, size[1] / photo.height)
    small = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    out = Image.new(photo.mode, size)
    place = (round((size[0] - small[0]) / 2), round((size[1] - small[1]) / 2))
    out.paste(photo.resize(small, Image.Resampling.LANCZOS), place)
    return out


def _context_box(change: np.ndarray, model: tuple[int, int], context: float) -> tuple[int, int, int, int]:
    spans = [np.flatnonzero(change.any(axis=axis)) for axis in (1, 0)]  # rows, columns
    ends = [(int(span[0]), int(span[-1]) + 1) for span in spans]
    wanted = [max((high - low) * (1 + 2 * context), size) for (low, high), size in zip(ends, model, strict=True)]
    scale = max(want / size for want, size in zip(wanted, model, strict=True))
    sides = []
    for (low, high), size, limit in zip(ends, model, change.shape, strict=True):
        length = math.ceil(min(size * scale, limit))  # in this order: scale may be infinite
        start = min(max((low + high - length) // 2, 0), limit - length)
        sides.append((start, start + length))
    (top, bottom), (left, right) = sides
    return left, top, right, bottom
