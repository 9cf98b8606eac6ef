"""The pictures of a folder, told by their content."""

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sdedit.errors import ImageError, reason

from .decoding import FORMATS, REFUSED, SUFFIXES

PICTURE_SUFFIXES = (*SUFFIXES, ".jpe", ".jfif", ".mpo", ".apng", ".heic", ".heif", ".avif")
"""A file with such a name is meant as a picture, even if it is damaged or of a format that is not decoded."""

SIGNED_FORMATS = tuple(name for name in FORMATS if name != "TGA")
"""Formats with a signature. A TGA file has none, so only its name tells it."""


@dataclass(frozen=True)
class Listing:
    """pictures: files that are, or are meant as, pictures, by name. left_out: the other entries, with the reason."""

    pictures: list[Path]
    left_out: dict[Path, str]


def list_pictures(folder: Path) -> Listing:
    """Look into every file of a folder. Names that begin with a dot are not listed. Raises ImageError."""
    listing = Listing([], {})
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        for path in entries:
            why = why_no_picture(path)
            if why is None:
                listing.pictures.append(path)
            else:
                listing.left_out[path] = why
    except OSError as error:
        raise ImageError(f"folder {folder} cannot be listed: {reason(error)}") from None
    return listing


def why_no_picture(path: Path) -> str | None:
    """Why a file is not taken for a picture; None if it is one, or is meant as one."""
    if path.is_dir():
        return "a folder"
    if not path.is_file():
        return "not a file"
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return None
    try:
        with path.open("rb") as file:
            head = file.read(12)
        if head[4:12] in REFUSED or _has_signature(path):
            return None
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    return "not an image"


def _has_signature(path: Path) -> bool:
    """Whether a file begins as one of SIGNED_FORMATS. Only its header is read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=SIGNED_FORMATS).close()
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True  # the edit will say how large it may be
    return True
