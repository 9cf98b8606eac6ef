"""Where pictures come from: files, PIL images and arrays, each with a hash for the recipe."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from sdedit.errors import ImageError, reason

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a PIL image, or an array: uint8 [H, W, 3] or [H, W]; a mask may be bool or float in [0, 1] as well."""


def read_bytes(path: Path, what: str) -> bytes:
    """The file's bytes. `what` names the source in an ImageError."""
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{what} {path} cannot be read: {reason(error)}") from None


def file_sha256(path: Path, what: str) -> str:
    """The SHA-256 of the file's bytes, equal to the `sha256` that `open_picture` gives it. Raises ImageError."""
    return hashlib.sha256(read_bytes(path, what)).hexdigest()


def array_sha256(array: np.ndarray) -> str:
    """The SHA-256 of dtype, shape and values."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def image_sha256(image: Image.Image) -> str:
    """The SHA-256 of mode, size, palette and pixels."""
    header = f"{image.mode}{image.size}{image.getpalette()}".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()
