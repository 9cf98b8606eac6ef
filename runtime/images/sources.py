"""Where pictures come from: files, bytes, file objects, PIL images and arrays, each with a hash for the recipe."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sdedit.errors import ImageError, reason

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | np.ndarray
"""A guide or mask, as callers give it; `sdedit.Source` says more."""

ACCEPTED = "a path, bytes, a binary file object, a PIL image or a NumPy array"

MAX_FILE_BYTES = 1 << 30
"""Largest encoded image that is read. MAX_PIXELS pixels of 16-bit RGBA without compression have 0.7 GB."""

SPECIAL_FILES = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class EncodedSource:
    """An encoded image. title: its name in messages. name: the file's name without folders, or None."""

    data: bytes
    title: str
    name: str | None


def read_source(source: Any, what: str) -> EncodedSource:
    """The bytes of a path, bytes-like object or binary file object. Raises ImageError for anything else."""
    if isinstance(source, bytes | bytearray | memoryview):
        return EncodedSource(bytes(source), what, None)
    if isinstance(source, str | os.PathLike):
        path = Path(os.fsdecode(source))
        return EncodedSource(read_bytes(path, what), f"{what} {path}", path.name)
    if callable(getattr(source, "read", None)):
        name = getattr(source, "name", None)
        name = Path(name).name if isinstance(name, str) else None
        title = f"{what} {name}" if name else what
        return EncodedSource(_read_object(source, title), title, name)
    raise ImageError(f"{what} is of type {type(source).__name__}; accepted are {ACCEPTED}")


def read_bytes(path: Path, what: str) -> bytes:
    """The file's bytes. Raises ImageError for a file that is not regular (it is not waited for) or too large."""
    with open_regular(path, what) as file, memory_for(f"{what} {path}", os.fstat(file.fileno()).st_size):
        return _read_object(file, f"{what} {path}")


def file_sha256(path: Path, what: str) -> str:
    """The SHA-256 of the file's bytes, equal to the `sha256` that `open_picture` gives it. Raises ImageError."""
    with open_regular(path, what) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def open_regular(path: Path, what: str) -> Iterator[BufferedReader]:
    """Open a regular file of at most MAX_FILE_BYTES for reading. Raises ImageError."""
    try:
        _check_regular(path, os.stat(path), what)  # noqa: PTH116 - before opening: opening a device may do something
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            _check_regular(path, os.fstat(descriptor), what)
            yield file
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{what} {path} cannot be read: {reason(error)}") from None


def _check_regular(path: Path, status: os.stat_result, what: str) -> None:
    kind = stat.S_IFMT(status.st_mode)
    if kind in SPECIAL_FILES:
        raise ImageError(f"{what} {path} is {SPECIAL_FILES[kind]}; accepted are regular files")
    if kind == stat.S_IFDIR:
        raise ImageError(f"{what} {path} cannot be read: Is a directory")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(_too_large(f"{what} {path}", f"{status.st_size} bytes"))


def _read_object(file: Any, title: str) -> bytes:
    """The rest of a binary file object, which may return less than it is asked for, and may grow."""
    parts: list[bytes] = []
    size = 0
    try:
        while size <= MAX_FILE_BYTES:
            part = file.read(min(1 << 26, MAX_FILE_BYTES + 1 - size))
            if not isinstance(part, bytes | bytearray | memoryview):
                raise ImageError(f"{title} is a file object that gives {type(part).__name__}: open it in mode 'rb'")
            if not part:
                return b"".join(parts)
            parts.append(bytes(part))
            size += len(part)
    except MemoryError:
        raise ImageError(f"not enough memory for {title}: more than {_megabytes(size)} wanted") from None
    except (OSError, ValueError, TypeError) as error:  # ValueError: it is closed. TypeError: it reads no given size
        raise ImageError(f"{title} cannot be read: {reason(error)}") from None
    raise ImageError(_too_large(title, "larger"))


def _too_large(title: str, size: str) -> str:
    return f"{title} is {size}; images of at most {MAX_FILE_BYTES} bytes are read"


@contextmanager
def memory_for(title: str, wanted: int) -> Iterator[None]:
    """Turn a MemoryError inside into an ImageError that says how many bytes were wanted, about."""
    try:
        yield
    except MemoryError:
        raise ImageError(f"not enough memory for {title}: about {_megabytes(wanted)} wanted") from None


def _megabytes(count: int) -> str:
    return f"{max(1, round(count / 1e6))} MB"


def array_sha256(array: np.ndarray) -> str:
    """The SHA-256 of dtype, shape and values."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def image_sha256(image: Image.Image) -> str:
    """The SHA-256 of mode, size, palette and pixels."""
    header = f"{image.mode}{image.size}{image.getpalette()}".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()
