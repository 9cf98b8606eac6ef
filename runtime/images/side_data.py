"""The data beside an image's pixels. Damaged side data costs itself and nothing else.

Each format's module (png, jpeg, tiff, webp, gif) reads the side data of a file itself and leaves Pillow the pixels
alone: Pillow refuses whole files for a broken note, limits texts by process-wide settings, and warns through the host's
warning filters.
"""

import logging
import re
import struct
from dataclasses import dataclass, field
from typing import Any

from sdedit.errors import printable

LOGGER = logging.getLogger("sdedit")

COLOUR_KEYS = ("icc_profile", "gamma", "chromaticity", "srgb", "cicp")
"""Keys of PIL's `Image.info` that describe colours. PIL has no key for cICP: "cicp" is ours, the chunk's 4 bytes."""

MAX_PROFILE_BYTES = 255 * 65519
"""Largest colour profile that is used: what a JPEG has room for."""

MAX_TEXT_BYTES = 1 << 20
"""Longest text that is read. Longer ones are left out."""

XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class DamagedError(Exception):
    """The pixels cannot be read; the message says why."""


class UnsupportedError(Exception):
    """The file holds a kind of pixels that is not decoded; the message names it."""


@dataclass
class Container:
    """A file taken apart.

    pixels: the file without side data, for Pillow. orientation: EXIF's, 1 to 8. colour: values by COLOUR_KEYS. frames:
    number of frames or pages. texts: PNG's text chunks, or texts of ours in XMP data (xmp.py). damaged: names of side
    data that could not be used.
    """

    pixels: bytes
    orientation: int = 1
    colour: dict[str, Any] = field(default_factory=dict)
    frames: int = 1
    texts: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def set_orientation(self, exif: bytes | None, xmp: bytes | None = None) -> None:
        """Take the orientation from EXIF data or, if that has none, from XMP data."""
        value = exif_orientation(exif) if exif is not None else None
        if value is None and exif is not None and not has_tiff_header(exif):
            self.damaged.append("EXIF data")
        if value is None and xmp is not None and (match := XMP_ORIENTATION.search(xmp)):
            value = int(match[1])
        self.orientation = value or 1

    def set_profile(self, profile: bytes | None) -> None:
        """Take a colour profile if it is one; None stands for a profile that could not be read."""
        if profile is None or profile_space(profile) is None:
            self.damaged.append("colour profile")
        else:
            self.colour["icc_profile"] = profile


def warn(title: str, message: str) -> None:
    """Tell the user on one line, through the logger "sdedit", which by default prints to stderr."""
    LOGGER.warning("%s", printable(f"{title} {message}"))


def has_tiff_header(exif: bytes) -> bool:
    return _without_prefix(exif)[:4] in (b"II*\0", b"MM\0*")


def exif_orientation(exif: bytes) -> int | None:
    """The orientation 1..8 that EXIF data notes; None where they note none or are damaged."""
    exif = _without_prefix(exif)
    if not has_tiff_header(exif):
        return None
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for number in range(count):
            tag, kind, values = struct.unpack_from(order + "HHI", exif, start + 2 + 12 * number)
            if tag == 274 and values == 1 and kind in (3, 4):
                (value,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, start + 10 + 12 * number)
                return value if 1 <= value <= 8 else None
    except struct.error:  # it ends too early
        return None
    return None


def profile_space(profile: bytes) -> str | None:
    """The kind of pixels that an ICC profile describes: RGB, GRAY, CMYK or another. None if the profile is damaged."""
    if not 128 < len(profile) <= MAX_PROFILE_BYTES or profile[36:40] != b"acsp":
        return None
    if int.from_bytes(profile[:4], "big") > len(profile):
        return None
    return profile[16:20].decode("latin-1").strip()


def _without_prefix(exif: bytes) -> bytes:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    return exif
