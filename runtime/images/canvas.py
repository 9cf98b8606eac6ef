"""The part of a photo that is edited: its box, the mask there, and pasting the result back."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from .colour import copy_colour
from .decoding import times
from .masks import edited_pixels, reduce_mask
from .sources import memory_for

FitName = Literal["crop", "pad", "stretch"]
FITS: tuple[FitName, ...] = get_args(FitName)

Size = tuple[int, int]
"""width, height in pixels, as PIL has it."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the photo."""


@dataclass(frozen=True)
class Canvas:
    """The picture that is edited, and where it lies in the photo. It knows nothing of a network's state.

    part: `box` of the photo at the network's picture size. mask: float32 [h, w] in [0, 1], at that size. change: bool
    [H, W] over the photo, True where it may change; None if the result is the whole picture.
    """

    photo: Image.Image
    box: Box
    part: Image.Image
    mask: np.ndarray
    change: np.ndarray | None


def whole_canvas(photo: Image.Image, size: Size, fit: str) -> Canvas:
    """The photo brought to `size` by `fit`; all of it may change."""
    if photo.size != size:
        if fit == "crop":
            photo = ImageOps.fit(photo, size, Image.Resampling.LANCZOS)
        elif fit == "pad":
            photo = _pad(photo, size)
        else:
            photo = photo.resize(size, Image.Resampling.LANCZOS)
    width, height = size
    return Canvas(photo, (0, 0, width, height), photo, np.ones((height, width), np.float32), None)


def masked_canvas(photo: Image.Image, mask: np.ndarray, size: Size, context: float, threshold: float) -> Canvas:
    """The box around the pixels that the mask edits, grown by `context` of its size on each side, to `size`'s aspect.

    The box is never smaller than `size` unless the photo is, so a small mask is not edited enlarged. Where the photo is
    too small for the aspect, the box is stretched. mask: float32 [H, W] in [0, 1]. threshold: the smallest mask value
    that edits a pixel. Raises ImageError if no pixel reaches it.
    """
    change = edited_pixels(mask, threshold)
    box = _context_box(change, size, context)
    left, top, right, bottom = box
    small = mask[top:bottom, left:right]
    with memory_for(f"a photo of {times(photo.size)} pixels", 4 * photo.width * photo.height):
        part = photo.crop(box)
        if part.size != size:
            part = part.resize(size, Image.Resampling.LANCZOS)
            small = reduce_mask(small, size)
    return Canvas(photo, box, part, np.ascontiguousarray(small), change)


def paste(canvas: Canvas, picture: Image.Image, exact: bool) -> Image.Image:
    """The photo with the edited `picture` in its box: where the mask is if the keep rule is `exact`, else in all of it.

    picture: as large as `canvas.part`.
    """
    if canvas.change is None:
        copy_colour(canvas.photo, picture)
        return picture
    left, top, right, bottom = canvas.box
    if picture.size != (right - left, bottom - top):
        picture = picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    with memory_for(f"a photo of {times(canvas.photo.size)} pixels", 4 * canvas.photo.width * canvas.photo.height):
        out = canvas.photo.copy()
        where = Image.fromarray(canvas.change[top:bottom, left:right]) if exact else None
        out.paste(picture, (left, top), where)
        return out


def _pad(photo: Image.Image, size: Size) -> Image.Image:
    """The whole photo in the middle of a black picture. ImageOps.pad drops the thinnest photos; this keeps a pixel."""
    scale = min(size[0] / photo.width, size[1] / photo.height)
    small = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    out = Image.new(photo.mode, size)
    place = (round((size[0] - small[0]) / 2), round((size[1] - small[1]) / 2))
    out.paste(photo.resize(small, Image.Resampling.LANCZOS), place)
    copy_colour(photo, out)
    return out


def _context_box(change: np.ndarray, size: Size, context: float) -> Box:
    spans = [np.flatnonzero(change.any(axis=axis)) for axis in (0, 1)]  # columns, rows
    ends = [(int(span[0]), int(span[-1]) + 1) for span in spans]
    wanted = [max((high - low) * (1 + 2 * context), side) for (low, high), side in zip(ends, size, strict=True)]
    scale = max(want / side for want, side in zip(wanted, size, strict=True))
    sides = []
    for (low, high), side, limit in zip(ends, size, change.shape[::-1], strict=True):
        length = math.ceil(min(side * scale, limit))  # in this order: scale may be infinite
        start = min(max((low + high - length) // 2, 0), limit - length)
        sides.append((start, start + length))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom
