"""The part of a photo that is edited: its box, the mask there, and pasting the result back."""

import math
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageOps

from .colour import copy_colour
from .decoding import times
from .masks import edited_pixels, reduce_mask
from .side_data import warn
from .sources import memory_for

FitName = Literal["crop", "pad", "stretch"]
FITS: tuple[FitName, ...] = get_args(FitName)

MAX_SIDE = 65535
"""Largest height and width of a picture that is edited."""

Size = tuple[int, int]
"""width, height in pixels, as PIL has it."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the photo."""


@dataclass(frozen=True)
class Canvas:
    """The picture that is edited, and where it lies in the photo. It knows nothing of a network's state.

    part: `box` of the photo at a size that the network takes. mask: float32 [h, w] in [0, 1], at that size. inner: the
    size of the box in `part`, at its upper left; what is right of it and below is the box reflected, and is cut off
    again. change: bool [H, W] over the photo, True where it may change; None if the result is the whole picture.
    """

    photo: Image.Image
    box: Box
    part: Image.Image
    mask: np.ndarray
    inner: Size
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
    return Canvas(photo, (0, 0, width, height), photo, np.ones((height, width), np.float32), size, None)


def own_size_canvas(photo: Image.Image, multiple_of: int) -> Canvas:
    """The photo as large as it is, reflected up to sides that are multiples; all of it may change."""
    part = _reflected(photo, multiples(photo.size, multiple_of))
    mask = np.ones((part.height, part.width), np.float32)
    return Canvas(photo, (0, 0, *photo.size), part, mask, photo.size, None)


def masked_canvas(photo: Image.Image, mask: np.ndarray, size: Size, context: float, threshold: float) -> Canvas:
    """The box around the pixels that the mask edits, grown by `context` of its size on each side, to `size`'s aspect.

    The box is never smaller than `size` unless the photo is, so a small mask is not edited enlarged. Where the photo is
    too small for the aspect, the box is stretched. mask: float32 [H, W] in [0, 1]. threshold: the smallest mask value
    that edits a pixel. Raises ImageError if no pixel reaches it.
    """
    change = edited_pixels(mask, threshold)
    return _cut(photo, mask, change, _context_box(change, size, context), size)


def own_scale_canvas(
    photo: Image.Image,
    mask: np.ndarray,
    least: Size,
    multiple_of: int,
    max_pixels: float,
    context: float,
    threshold: float,
) -> Canvas:
    """The box around the pixels that the mask edits, at the photo's own scale, reflected to sides that are multiples.

    The box is grown by `context` of its size on each side, and to `least` at least, as far as the photo reaches. Only a
    box of more than max_pixels is reduced, and a warning says how far. Raises ImageError as masked_canvas does.
    """
    change = edited_pixels(mask, threshold)
    box = _own_box(change, least, multiple_of, context)
    size = (box[2] - box[0], box[3] - box[1])
    padded = multiples(size, multiple_of)
    if prod(padded) <= max_pixels:
        return canvas_at(photo, mask, change, box, multiple_of)
    reduced = _reduced(size, multiple_of, max_pixels)
    share = 100 * math.sqrt(prod(reduced) / prod(size))
    warn(
        "mask",
        f"is edited at {share:.0f} % of the photo's scale: with its margin it is {times(size)} pixels, "
        f"and at most {max_pixels:.0f} are edited at once",
    )
    return _cut(photo, mask, change, box, reduced)


def canvas_at(photo: Image.Image, mask: np.ndarray, change: np.ndarray, box: Box, multiple_of: int) -> Canvas:
    """The box of the photo at its own scale, reflected to sides that are multiples.

    mask: float32 [H, W] in [0, 1]. change: bool [H, W], the pixels that it edits.
    """
    size = (box[2] - box[0], box[3] - box[1])
    padded = multiples(size, multiple_of)
    canvas = _cut(photo, mask, change, box, size)
    small = np.pad(canvas.mask, ((0, padded[1] - size[1]), (0, padded[0] - size[0])), mode="symmetric")
    return replace(canvas, part=_reflected(canvas.part, padded), mask=small)


def paste(canvas: Canvas, picture: Image.Image, exact: bool) -> Image.Image:
    """The photo with the edited `picture` in its box: where the mask is if the keep rule is `exact`, else in all of it.

    picture: as large as `canvas.part`.
    """
    if canvas.inner != canvas.part.size:
        picture = picture.crop((0, 0, *canvas.inner))
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


def multiples(size: Size, multiple_of: int) -> Size:
    """The size, each side rounded up to a multiple."""
    return -(-size[0] // multiple_of) * multiple_of, -(-size[1] // multiple_of) * multiple_of


def _cut(photo: Image.Image, mask: np.ndarray, change: np.ndarray, box: Box, size: Size) -> Canvas:
    """The box of the photo and of the mask, brought to `size`."""
    left, top, right, bottom = box
    small = mask[top:bottom, left:right]
    with memory_for(f"a photo of {times(photo.size)} pixels", 4 * photo.width * photo.height):
        part = photo.crop(box)
        if part.size != size:
            part = part.resize(size, Image.Resampling.LANCZOS)
            small = reduce_mask(small, size)
    return Canvas(photo, box, part, np.ascontiguousarray(small), size, change)


def _reflected(picture: Image.Image, size: Size) -> Image.Image:
    """The picture, enlarged to `size` on the right and below by its own reflection."""
    if picture.size == size:
        return picture
    right, below = size[0] - picture.width, size[1] - picture.height
    values = np.asarray(picture)
    enlarged = np.pad(values, ((0, below), (0, right), *[(0, 0)] * (values.ndim - 2)), mode="symmetric")
    return Image.fromarray(enlarged)


def _reduced(size: Size, multiple_of: int, max_pixels: float) -> Size:
    """The largest size of that aspect, nearly, with sides that are multiples and no more pixels than that."""
    scale = math.sqrt(max_pixels / prod(size))
    short = max(math.floor(min(size) * scale / multiple_of), 1) * multiple_of
    long = min(max(size) * scale, max_pixels / short)
    long = max(math.floor(long / multiple_of), 1) * multiple_of
    return (short, long) if size[0] < size[1] else (long, short)


def _pad(photo: Image.Image, size: Size) -> Image.Image:
    """The whole photo in the middle of a black picture. ImageOps.pad drops the thinnest photos; this keeps a pixel."""
    scale = min(size[0] / photo.width, size[1] / photo.height)
    small = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    out = Image.new(photo.mode, size)
    place = (round((size[0] - small[0]) / 2), round((size[1] - small[1]) / 2))
    out.paste(photo.resize(small, Image.Resampling.LANCZOS), place)
    copy_colour(photo, out)
    return out


def _own_box(change: np.ndarray, least: Size, multiple_of: int, context: float) -> Box:
    """The box around what changes with its margin; its sides are multiples where the photo is large enough."""
    sides = []
    for (low, high), side, limit in zip(_ends(change), least, change.shape[::-1], strict=True):
        wanted = min(max((high - low) * (1 + 2 * context), side), limit)
        length = min(math.ceil(wanted / multiple_of) * multiple_of, limit)
        start = min(max((low + high - length) // 2, 0), limit - length)
        sides.append((start, start + length))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def _ends(change: np.ndarray) -> list[tuple[int, int]]:
    """First column that changes and the one after the last, and the same of rows."""
    spans = [np.flatnonzero(change.any(axis=axis)) for axis in (0, 1)]
    return [(int(span[0]), int(span[-1]) + 1) for span in spans]


def _context_box(change: np.ndarray, size: Size, context: float) -> Box:
    ends = _ends(change)
    wanted = [max((high - low) * (1 + 2 * context), side) for (low, high), side in zip(ends, size, strict=True)]
    scale = max(want / side for want, side in zip(wanted, size, strict=True))
    sides = []
    for (low, high), side, limit in zip(ends, size, change.shape[::-1], strict=True):
        length = math.ceil(min(side * scale, limit))  # in this order: scale may be infinite
        start = min(max((low + high - length) // 2, 0), limit - length)
        sides.append((start, start + length))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom
