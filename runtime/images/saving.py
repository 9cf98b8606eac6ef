"""Writing images. A file is either complete or untouched."""

import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, features

from sdedit.errors import ImageError, reason

from .encoding import ENCODED_SUFFIXES, encode

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
"""Bits of a file's mode; a file with none of them is read-only, even for root."""


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ImageError unless an image can be written at `path`, which must be none of `inputs`. Call it first.

    Its suffix, one of ENCODED_SUFFIXES, says the format. A link stands for its target. A file whose mode forbids
    writing is not replaced.
    """
    if format_of(path) == "WebP" and not features.check("webp"):
        raise ImageError(f"output {path} cannot be written: this installation of Pillow has no WebP")
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


def format_of(path: Path) -> str:
    """The format that the suffix of an output asks for. Raises ImageError for a suffix that is none of an image."""
    suffix = path.suffix.lower()
    if suffix not in ENCODED_SUFFIXES:
        raise ImageError(f"output {path} does not end in {', '.join(ENCODED_SUFFIXES)}: these formats keep the recipe")
    return ENCODED_SUFFIXES[suffix]


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


def save_image(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write the image with these texts (key: text) and the description of its colours. Raises ImageError.

    The suffix says the format. `path` is either complete or untouched: the file is written beside it and renamed. A
    link's target is written, and the mode of a file that is replaced stays.
    """
    check_output(path)
    target = follow(path)
    temporary = target.parent / f".sdedit-{secrets.token_hex(8)}"
    try:
        data = encode(image, format_of(path), texts, f"output {path}")
        with temporary.open("xb") as file:
            file.write(data)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        temporary.replace(target)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)
