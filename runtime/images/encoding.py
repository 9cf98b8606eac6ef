"""Encoding pictures as PNG, WebP and JPEG, with texts and the description of their colours."""

import importlib
import io
import struct
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from PIL import Image

from sdedit.errors import ImageError

from .side_data import profile_space, warn
from .sources import memory_for
from .xmp import write_xmp

ENCODED_SUFFIXES = {".png": "PNG", ".webp": "WebP", ".jpg": "JPEG", ".jpeg": "JPEG"}
"""The format that a file's name asks for."""

PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    "WebP": {"lossless": True},
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
}

PLUGINS = {"WebP": "PIL.WebPImagePlugin", "JPEG": "PIL.JpegImagePlugin"}
"""Pillow's module of a format. Pillow itself would load all its modules for a WebP."""

MAX_SIDES = {"WebP": 16383, "JPEG": 65500}
"""Largest height and width that a format has."""


def encode(image: Image.Image, format_name: str, texts: Mapping[str, str], title: str) -> bytes:
    """The image in a format of ENCODED_SUFFIXES, with these texts (key: text). title: its name in messages.

    What the format has no place for is said. Raises ImageError.
    """
    if format_name == "PNG":
        return encode_png(image, texts)
    if max(image.size) > MAX_SIDES[format_name]:
        most = MAX_SIDES[format_name]
        raise ImageError(f"{title} cannot be written: {format_name} has at most {most} pixels a side: use PNG")
    profile = image.info.get("icc_profile")
    if format_name == "WebP" and image.mode == "L":
        image = image.convert("RGB")
        if profile and profile_space(profile) == "GRAY":
            profile = None
            warn(title, "has no grey profile: the pixels of a WebP are RGB")
    lost = _colours_without_place(image.info, profile)
    if lost:
        warn(title, f"says nothing of {', '.join(lost)}, which describe the guide's colours: {format_name} cannot")
    importlib.import_module(PLUGINS[format_name])
    file = io.BytesIO()
    with memory_for(f"a {format_name} of {image.width}x{image.height} pixels", 4 * image.width * image.height):
        options = PILLOW_OPTIONS[format_name]
        image.save(file, format_name.upper(), xmp=write_xmp(texts), icc_profile=profile, **options)
        return file.getvalue()


def _colours_without_place(info: Mapping[Any, Any], profile: bytes | None) -> list[str]:
    """Names of PNG's chunks on colours that are needed to show the pixels right, besides a profile."""
    lost = ["cICP"] if "cicp" in info else []
    if profile is None and "srgb" not in info:
        lost += [chunk for chunk, key in (("gAMA", "gamma"), ("cHRM", "chromaticity")) if key in info]
    return lost


def encode_png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """The image as a PNG with these text chunks (key: text) and the description of its colours. Raises ImageError."""
    from PIL.PngImagePlugin import PngInfo  # a seventh of what importing the runtime would cost

    info = PngInfo()
    for chunk, body in colour_chunks(image.info).items():
        info.add(chunk, body)
    for key, text in texts.items():
        info.add_itxt(key, text)
    file = io.BytesIO()
    with memory_for(f"a PNG of {image.width}x{image.height} pixels", 4 * image.width * image.height):
        image.save(file, "PNG", pnginfo=info, icc_profile=image.info.get("icc_profile"))
        return file.getvalue()


def colour_chunks(info: Mapping[Any, Any]) -> dict[bytes, bytes]:
    """PNG chunks for the colours that an image's `info` describes, without those that do not fit the format."""
    chunks = {}
    with suppress(KeyError, TypeError, ValueError, struct.error):
        chunks[b"gAMA"] = struct.pack(">I", round(info["gamma"] * 100000))
    with suppress(KeyError, TypeError, ValueError, struct.error):
        chunks[b"cHRM"] = struct.pack(">8I", *(round(value * 100000) for value in info["chromaticity"]))
    with suppress(KeyError, struct.error):
        chunks[b"sRGB"] = struct.pack("B", info["srgb"])
    with suppress(KeyError, struct.error):
        chunks[b"cICP"] = struct.pack("4s", info["cicp"])
    if info.get("icc_profile"):
        chunks.pop(b"sRGB", None)  # a PNG has one or the other
    return chunks
