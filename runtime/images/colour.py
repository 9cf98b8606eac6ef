"""From any pixel mode to 8-bit grey or RGB, with a description of the colours that is true of the result."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from sdedit.errors import ImageError

from .side_data import COLOUR_KEYS, profile_space, warn

CONVERTIBLE = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX")
"""PIL's modes that have no alpha and convert to RGB or grey with an agreed meaning."""

BLOCK = 256
"""Rows that are converted at once, so that tables of indices stay small."""


def to_mode(image: Image.Image, mode: str, title: str) -> Image.Image:
    """The image in `mode`, "L" or "RGB", with 8 bits a channel; its `info` holds COLOUR_KEYS and nothing else.

    Colours keep their description as long as it is true of the result. Where grey, CMYK or RGB pixels become pixels of
    another kind, their profile is used to convert them to sRGB, and the user is told. Raises ImageError for transparent
    pixels, and for modes without an agreed meaning.
    """
    opaque, alpha = split_alpha(image, title)
    if alpha is not None and alpha.getextrema() != (255, 255):
        raise ImageError(f"{title} has transparent pixels: flatten it first")
    return convert_colours(opaque, mode, title)


def convert_colours(opaque: Image.Image, mode: str, title: str) -> Image.Image:
    """`to_mode` for what `split_alpha` returned."""
    colour: dict[str, Any] = {key: opaque.info[key] for key in COLOUR_KEYS if opaque.info.get(key) is not None}
    pixels = {"CMYK": "CMYK", "1": "GRAY", "L": "GRAY"}.get(opaque.mode, "RGB")
    if "icc_profile" in colour:
        opaque, colour = _apply_profile(opaque, colour, pixels, mode, title)
    elif pixels == "CMYK" or (pixels, mode) == ("RGB", "L"):
        colour = {}
    converted = opaque.convert(mode)
    converted.info.clear()
    converted.info.update(colour)
    return converted


def copy_colour(source: Image.Image, target: Image.Image) -> None:
    """Describe the target's colours as the source's."""
    for key in COLOUR_KEYS:
        target.info.pop(key, None)
        if source.info.get(key) is not None:
            target.info[key] = source.info[key]


def grey_image(values: np.ndarray, maximum: int, inverted: bool = False) -> Image.Image:
    """Integers [H, W] in 0..maximum <= 65535 as an 8-bit grey image, rounded. inverted: 0 is white."""
    table = np.rint(np.minimum(np.arange(65536) / maximum, 1) * 255).astype(np.uint8)
    if inverted:
        table = 255 - table
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), BLOCK):
        grey[top : top + BLOCK] = table[values[top : top + BLOCK]]
    return Image.fromarray(grey)


def _with_eight_bits(image: Image.Image, title: str) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{title} has grey values outside 0..65535")
    grey = grey_image(values, 65535)
    copy_colour(image, grey)
    key = image.info.get("transparency")
    return add_alpha(grey, mask_of(values != key)) if isinstance(key, int) else grey


def mask_of(chosen: np.ndarray) -> Image.Image:
    """Grey pixels: 255 where `chosen`, bool [H, W], is true, else 0."""
    return Image.fromarray(np.where(chosen, np.uint8(255), np.uint8(0)))


def add_alpha(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """The image as LA or RGBA with this alpha channel, in place of a key colour; 16 bits of grey become 8."""
    if image.mode.startswith("I"):
        grey = grey_image(np.asarray(image), 65535)
        copy_colour(image, grey)
        image = grey
    colours = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    colours.info.pop("transparency", None)
    colours.putalpha(alpha)
    return colours


def split_alpha(image: Image.Image, title: str) -> tuple[Image.Image, Image.Image | None]:
    """The image of 8 bits a channel without transparency, and its alpha channel, or None if it has no transparency.

    Colours under transparent pixels are as stored. Raises ImageError for modes without an agreed meaning.
    """
    image = _with_eight_bits(image, title)
    if image.mode == "La":
        image = image.convert("LA")
    if not image.has_transparency_data:
        if image.mode not in CONVERTIBLE:
            raise ImageError(f"{title} has pixel mode {image.mode}; accepted are grey, palette, RGB and CMYK")
        return image, None
    image = _with_own_key(image, title)
    full = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
    opaque = full.convert("L" if image.mode in ("L", "LA", "1") else "RGB")
    opaque.info = dict(image.info)
    return opaque, full.getchannel("A")


def other_colours(bands: Sequence[Image.Image], values: Sequence[int]) -> Image.Image:
    """Grey pixels: 0 where these bands of 8 bits have these values, else 255."""
    other = Image.new("L", bands[0].size)
    for band, value in zip(bands, values, strict=True):
        here = band.point([255 * (level != value) for level in range(256)])
        other = ImageChops.lighter(other, here)
    return other


def _with_own_key(image: Image.Image, title: str) -> Image.Image:
    """The image with a key colour of its samples' depth, or none.

    When a caller opens a PNG of 2 or 4-bit grey or of 16-bit RGB with PIL, PIL changes the depth of the samples and not
    of the key. Raises ImageError where a pixel may have had that key. Files are compared exactly (png.py).
    """
    key = image.info.get("transparency")
    unsure = False
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        unsure = other_colours(image.split(), [value >> 8 for value in key]).getextrema()[0] == 0
        image = image.copy()
        del image.info["transparency"]
    elif image.mode == "L" and isinstance(key, int) and 0 < key < 16:
        histogram = image.histogram()
        steps = [step for step, largest in ((17, 15), (85, 3)) if key <= largest and _has_steps(histogram, step)]
        unsure = any(histogram[key * step] for step in steps)
    if unsure:
        raise ImageError(
            f"{title} may have transparent pixels, which PIL hides by changing the depth of its samples: give the file "
            f"itself, or flatten it first"
        )
    return image


def _has_steps(histogram: list[int], step: int) -> bool:
    """Whether all grey levels are multiples of `step`, as of samples of fewer bits."""
    return not any(count for level, count in enumerate(histogram) if level % step)


def _apply_profile(
    image: Image.Image, colour: dict[str, Any], pixels: str, mode: str, title: str
) -> tuple[Image.Image, dict[str, Any]]:
    """The image and the description of its colours after a look at its profile.

    pixels: the kind of pixels that the image has, RGB, GRAY or CMYK. mode: what it is converted to afterwards.
    """
    without = {key: value for key, value in colour.items() if key != "icc_profile"}
    space = profile_space(colour["icc_profile"])
    if mode == "RGB" and space == "RGB" and pixels in ("RGB", "GRAY"):
        return image, colour  # grey pixels are grey under a profile of RGB, too
    if mode == "L" and space == "GRAY" and pixels == "GRAY":
        return image, colour
    if space != pixels:
        stated = "is damaged" if space is None else f"describes {space} pixels, and it has {pixels} pixels"
        warn(title, f"has a colour profile that {stated}: it is not used")
        return image, {} if pixels == "CMYK" else without
    converted = _to_srgb(image, colour["icc_profile"])
    if converted is None:
        warn(title, f"has a colour profile that cannot be converted to sRGB: its {pixels} pixels are taken without it")
        return image, {}
    warn(title, f"was converted from its {pixels} colour profile to sRGB")
    return converted, {"srgb": 0} if mode == "RGB" else {}


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The image as RGB in sRGB, relative to its profile; None where that fails."""
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        grey_or_ink = image.convert("L") if image.mode == "1" else image
        grey_or_ink = grey_or_ink.convert("RGB") if grey_or_ink.mode not in ("L", "RGB", "CMYK") else grey_or_ink
        return ImageCms.profileToProfile(grey_or_ink, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except MemoryError:
        raise
    except Exception:  # littlecms is missing, or refuses the profile in one of several ways
        return None
