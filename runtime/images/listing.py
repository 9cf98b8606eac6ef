"""The pictures of a folder, told by their content."""

from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import ImageError, reason

from .decoding import REFUSED, SUFFIXES, identify

PICTURE_SUFFIXES = (*SUFFIXES, ".jpe", ".jfif", ".mpo", ".apng", ".heic", ".heif", ".avif")
"""A file with such a name is meant as a picture, even if it is damaged or of a format that is not decoded."""

SHORT_SIGNATURES = ("BMP", "PPM")
"""Formats of two bytes' signature, which a text may begin with too: only a file's name makes it one of these."""


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
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    known = head[4:12] in REFUSED or identify(head) not in (None, *SHORT_SIGNATURES)
    return None if known else "not an image"
