"""Writing PNGs. A file is either complete or untouched."""

import io
import os
import secrets
import stat
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit.errors import ImageError, reason

from .sources import memory_for

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
"""Bits of a file's mode; a file with none of them is read-only, even for root."""


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ImageError unless a PNG can be written at `path`, which must be none of `inputs`. Call it first.

    A link stands for its target. A file whose mode forbids writing is not replaced.
    """
    if path.suffix.lower() != ".png":
        raise ImageError(f"output {path} does not end in .png: only PNG keeps every byte and the recipe")
    try:
        target = follow(path)
        if target.is_dir():
            raise ImageError(f"output {path} is a folder")
        if not target.parent.is_dir():
            raise ImageError(f"output {path}: there is no folder {target.parent}")
        if not os.access(target.parent, os.W_OK):
            raise ImageError(f"output {path}: the folder {target.parent} is not writable")
        if target.exists():
            check_existing(path, target, inputs)
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be entered, a circle of links
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None


def check_existing(path: Path, target: Path, inputs: Sequence[Path]) -> None:
    """Raise ImageError if the file at `path`, whose target is `target`, must not be replaced."""
    if not target.is_file():
        raise ImageError(f"output {path} is not a regular file")
    if not target.stat().st_mode & WRITABLE or not os.access(target, os.W_OK):
        raise ImageError(f"output {path} is read-only")
    if any(_same(target, source) for source in inputs):
        raise ImageError(f"output {path} would overwrite an input: name another")


def follow(path: Path) -> Path:
    """The file that `path` stands for: the target of a link, which need not exist, or itself."""
    return path.resolve() if path.is_symlink() else path


def _same(target: Path, source: Path) -> bool:
    try:
        return target.samefile(source)
    except (OSError, ValueError):  # there is no such input; whoever reads it says so
        return False


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


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write the image with these text chunks (key: text) and the description of its colours. Raises ImageError.

    `path` is either complete or untouched: the file is written beside it and renamed. A link's target is written, and
    the mode of a file that is replaced stays.
    """
    check_output(path)
    target = follow(path)
    temporary = target.parent / f".sdedit-{secrets.token_hex(8)}"
    try:
        data = encode_png(image, texts)
        with temporary.open("xb") as file:
            file.write(data)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
