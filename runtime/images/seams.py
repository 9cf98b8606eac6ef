"""Carried error: what a decoder does wrong on the kept side of a mask's border is put right on the edited side, too."""

import numpy as np
from PIL import Image

PASSES = 3
"""Box means that make one smooth mean."""

FULL_FROM = 0.5
"""Share of kept pixels around from which the error is carried in full: at a straight border it is one half."""


def carry_error(decoded: Image.Image, original: Image.Image, kept: np.ndarray, radius: int) -> Image.Image:
    """The decoded picture, corrected by its mean error on the kept pixels nearby; far from these it stays as it is.

    An autoencoder shifts colours a little. Where its picture is pasted beside kept pixels, that shift is a visible
    border. Its error is known on kept pixels alone, and is smooth: its mean there is a guess of it across the border.
    original: a picture of that size. kept: bool [H, W]. radius: of each box mean, in pixels.
    """
    found = channels_of(decoded)
    weight = smooth(kept[..., None].astype(np.float32), radius)
    error = smooth((channels_of(original) - found) * kept[..., None], radius)
    carried = np.where(weight > 0, error / np.maximum(weight, 1e-6), 0) * np.minimum(weight / FULL_FROM, 1)
    values = np.clip(np.rint(found + carried), 0, 255).astype(np.uint8)
    return Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)


def channels_of(picture: Image.Image) -> np.ndarray:
    """The picture's values: float32 [H, W, C]."""
    return np.atleast_3d(np.asarray(picture, np.float32))


def smooth(values: np.ndarray, radius: int) -> np.ndarray:
    """PASSES box means over 2 radius + 1 rows and columns of float32 [H, W, C]; outside, the edge goes on."""
    width = 2 * radius + 1
    for axis in (0, 1):
        padding = [(0, 0)] * values.ndim
        padding[axis] = (radius + 1, radius)
        for _ in range(PASSES):
            sums = np.cumsum(np.pad(values, padding, mode="edge"), axis=axis, dtype=np.float64)
            ends, starts = np.split(sums, [width], axis=axis)[1], np.split(sums, [-width], axis=axis)[0]
            values = ((ends - starts) / width).astype(np.float32)
    return values
