"""Looks at pictures before the edit. Their sizes are checked before anything is decoded."""

from collections.abc import Mapping
from typing import Any

from PIL import ImageChops

from sdedit.runtime.images import encode_png, open_picture, picture_size

from .limits import Limits
from .problems import Problem


def checked_size(data: bytes, what: str, limits: Limits) -> tuple[int, int]:
    """Width and height of a picture, from its header. Raises ImageError, and Problem 413 for too many pixels."""
    width, height = picture_size(data, what)
    if width * height > limits.pixels:
        raise Problem(413, f"{what} has {width}x{height} pixels: this server takes at most {limits.pixels}")
    return width, height


def has_transparency(data: bytes, what: str, limits: Limits) -> bool:
    """Whether a pixel of the picture is transparent. Raises Problem and ImageError."""
    checked_size(data, what, limits)
    alpha = open_picture(data, what, keep_alpha=True).alpha
    return alpha is not None and alpha.getextrema() != (255, 255)


def inverted(data: bytes, what: str, limits: Limits) -> bytes:
    """The mask with white and black exchanged, as a PNG. Raises Problem and ImageError."""
    checked_size(data, what, limits)
    return encode_png(ImageChops.invert(open_picture(data, what, 1).image), {})


def accepted_size(model: Mapping[str, Any], width: int, height: int) -> str | None:
    """The option `size` of those sides; None if the model does not take them. model: as /v1/models has it."""
    about = model["sdedit"]
    native = about["native"]
    if (height, width) == (native["height"], native["width"]):
        return "native"
    fits = width > 0 and height > 0 and not (width % about["multiple_of"] or height % about["multiple_of"])
    return f"{height}x{width}" if about["free"] and fits and width * height <= about["max_pixels"] else None
