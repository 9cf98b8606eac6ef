"""From any pixel mode to 8 bits a channel without transparency."""

import numpy as np
from PIL import Image

from sdedit.errors import ImageError

CONVERTIBLE = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX")
"""PIL's modes that have no alpha and convert to RGB or grey with an agreed meaning."""


def flatten(image: Image.Image, what: str) -> Image.Image:
    """The image with 8 bits a channel and no alpha. Raises ImageError for transparent pixels: nothing may be lost."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image, what)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise ImageError(f"{what} has transparent pixels: flatten it first")
        return image.convert("RGB")
    if image.mode not in CONVERTIBLE:
        raise ImageError(f"{what} has pixel mode {image.mode}; accepted are grey, palette, RGB and CMYK")
    return image


def _from_sixteen_bits(image: Image.Image, what: str) -> Image.Image:
    """Scale grey values 0..65535 to 0..255, rounding to the nearest."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{what} has grey values outside 0..65535")
    if (values == image.info.get("transparency", -1)).any():
        raise ImageError(f"{what} has transparent pixels: flatten it first")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))
