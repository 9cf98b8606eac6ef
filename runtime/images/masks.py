"""Masks: reading one, making one from two photos, and reducing one to another size."""

from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from sdedit.errors import ImageError

from .colour import split_alpha, to_mode
from .decoding import Picture, decode, times
from .side_data import warn
from .sources import Source, array_sha256, memory_for

MaskFromName = Literal["brightness", "alpha"]
MASKS_FROM: tuple[MaskFromName, ...] = get_args(MaskFromName)

TOLERATED = 12
"""Largest difference, of 255, that does not count as painted. Two JPEG saves of one photo rarely differ by more."""

GROW = 4
"""Pixels by which a mask made of two photos is grown: a stroke's soft edge, and room to blend in."""


NEARLY_BLACK = 1 / 16
"""Mask values above 0 and below this are rarely meant: JPEG and resampling leave up to 15 of 255 where black was."""

FEATHER = 4
"""Pixels inside a mask's border in which an edit grows to full strength, by default."""

MAX_FEATHER = 64

SHARE_TO_SAY = 0.01
"""Share of a photo that may be edited through a nearly black mask without a word: the soft edges of strokes."""


def open_mask(
    source: Source, size: tuple[int, int], mask_from: MaskFromName = "brightness"
) -> tuple[np.ndarray, Picture]:
    """A mask as float32 [H, W] in [0, 1]; 1 = edit: white, or transparent if `mask_from` is alpha. Raises ImageError.

    size: (width, height) of the guide, which the mask must have too.
    """
    if isinstance(source, np.ndarray) and source.dtype != np.uint8 and mask_from == "brightness":
        values = _check_mask_array(source)
        picture = Picture(Image.fromarray(np.rint(values * 255).astype(np.uint8)), array_sha256(source), None)
    else:
        decoded = decode(source, "mask")
        decoded.image.info = {key: value for key, value in decoded.image.info.items() if key == "transparency"}
        with memory_for(decoded.title, 12 * decoded.image.width * decoded.image.height):
            if mask_from == "alpha":
                grey = alpha_mask(split_alpha(decoded.image, decoded.title)[1], decoded.title)
            else:
                grey = to_mode(decoded.image, "L", decoded.title)  # a mask's values are no colours: no profile is used
            values = np.asarray(grey, np.float32) / np.float32(255)
        picture = Picture(grey, decoded.sha256, decoded.name)
    if picture.image.size != size:
        raise ImageError(f"mask is {times(picture.image.size)} pixels, the guide {times(size)}: they must be equal")
    return values, picture


def alpha_mask(alpha: Image.Image | None, title: str) -> Image.Image:
    """The mask, mode "L", that an alpha channel is: 255 - alpha, so opaque pixels are black.

    title: name of the picture in messages. Raises ImageError if there is no alpha channel, or no transparent pixel.
    """
    if alpha is None or alpha.getextrema() == (255, 255):
        lack = "transparent pixel" if alpha is not None else "alpha channel"
        raise ImageError(f"{title} has no {lack}: with mask_from alpha, transparent pixels may change")
    return ImageChops.invert(alpha)


def difference_mask(guide: Image.Image, base: Image.Image) -> np.ndarray:
    """A mask of where `guide` was painted over `base`, grown by GROW pixels: float32 [H, W], 0 or 1.

    A pixel is painted where a channel differs by more than TOLERATED, so that JPEG noise is not a stroke. Raises
    ImageError if the sizes differ or nothing was painted.
    """
    if guide.size != base.size:
        raise ImageError(f"base is {times(base.size)} pixels, the guide {times(guide.size)}: they must be equal")
    with memory_for(f"a mask of {times(guide.size)} pixels", 12 * guide.width * guide.height):
        differences = np.asarray(ImageChops.difference(guide, base))
        painted = differences.reshape(*differences.shape[:2], -1).max(axis=2) > TOLERATED
        if not painted.any():
            raise ImageError(f"base and guide differ nowhere by more than {TOLERATED} of 255: nothing was painted")
        grown = Image.fromarray(painted.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * GROW + 1))
        return np.asarray(grown, np.float32)


def edited_pixels(mask: np.ndarray, threshold: float) -> np.ndarray:
    """The pixels that an edit changes, bool [H, W]: those whose mask value is at least `threshold`.

    Raises ImageError if there are none. Warns if many are nearly black: nobody sees that such a mask is not black.
    """
    change = mask >= np.float32(threshold)
    if not change.any():
        brightest = float(mask.max())
        if brightest == 0:
            raise ImageError("The mask is black, so it edits nothing. White edits, black keeps.")
        raise ImageError(
            f"The mask is nearly black: its brightest value is {brightest:.3g}, and editing starts at {threshold:.3g}. "
            f"For masks of 0 and 1, use bool or multiply by 255."
        )
    dark = change & (mask < NEARLY_BLACK) & (mask > 0)
    share = float(dark.mean())
    if share >= SHARE_TO_SAY:
        warn(
            "mask",
            f"is nearly black, but not black, in {100 * share:.0f} % of the photo, which is edited too: values down to "
            f"{mask[dark].min():.3g} of 1. Set them to 0 to keep these pixels",
        )
    return change


def feathered(mask: np.ndarray, pixels: int, threshold: float) -> np.ndarray:
    """The mask, float32 [H, W], with values that rise inside its border over that many pixels.

    At a distance of d pixels from the nearest black one a value is multiplied by d / (pixels + 1). Where a stroke is
    too thin for that, the values at its middle stay as they are. threshold: the smallest value that edits a pixel; the
    same pixels are edited before and after.
    """
    rows, columns = (np.flatnonzero((mask > 0).any(axis=axis)) for axis in (1, 0))
    if pixels == 0 or not len(rows):
        return mask
    reach = pixels + 1
    inner = tuple(slice(max(at[0] - reach, 0), at[-1] + 1 + reach) for at in (rows, columns))
    distance = distance_to_black(mask[inner] == 0, reach)
    middle = window_maximum(distance, pixels)
    out = mask.copy()
    out[inner] *= np.where(distance > 0, distance / np.maximum(middle, 1), np.float32(0))
    return np.where(mask >= np.float32(threshold), np.maximum(out, np.float32(threshold)), mask)


def distance_to_black(black: np.ndarray, most: int) -> np.ndarray:
    """The distance of each pixel to the nearest black one, or `most` if that is smaller: float32 [H, W]."""
    along = np.where(black, np.float32(0), np.float32(most))  # within a column
    for axis_flip in (1, -1):
        view = along[::axis_flip]
        for row in range(1, len(view)):
            np.minimum(view[row], view[row - 1] + 1, out=view[row])
    squares = np.square(along)
    nearest = squares.copy()
    width = squares.shape[1]
    for shift in range(1, min(most, width)):
        np.minimum(nearest[:, shift:], squares[:, :-shift] + shift * shift, out=nearest[:, shift:])
        np.minimum(nearest[:, :-shift], squares[:, shift:] + shift * shift, out=nearest[:, :-shift])
    return np.minimum(np.sqrt(nearest), np.float32(most))


def window_maximum(values: np.ndarray, reach: int) -> np.ndarray:
    """The largest value within `reach` rows and columns of each: float32 [H, W]."""
    for axis in (0, 1):
        lines = np.moveaxis(values, axis, 0)
        out = lines.copy()
        for shift in range(1, min(reach, len(lines) - 1) + 1):
            np.maximum(out[shift:], lines[:-shift], out=out[shift:])
            np.maximum(out[:-shift], lines[shift:], out=out[:-shift])
        values = np.moveaxis(out, 0, axis)
    return values


def reduce_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask at `size` (width, height): the maximum over each cell, or the nearest value where it grows.

    No stroke is too thin for it, and no new greys appear. mask: float32 [H, W].
    """
    width, height = size
    for axis, count in enumerate((height, width)):
        starts = np.arange(count) * mask.shape[axis] // count
        mask = np.maximum.reduceat(mask, starts, axis=axis)
    return mask


def _check_mask_array(array: np.ndarray) -> np.ndarray:
    fits = array.ndim == 2 and array.dtype.kind in "bf" and array.size > 0
    if not fits or not ((array >= 0) & (array <= 1)).all():
        raise ImageError(
            f"mask is an array of {array.dtype} {list(array.shape)}; accepted: uint8, bool or float in [0, 1]; [H, W]"
        )
    return array.astype(np.float32)
