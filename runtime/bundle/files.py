"""The files of a bundle: opened without waiting, and checked against size and hash as they are read."""

import hashlib
import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import BundleError, git_lfs_hint, reason

MANIFEST = "bundle.json"
GRAPH_FOLDER = "graph"
"""The part with whole edits as graphs, for hosts other than this runtime, which never loads them."""

MAX_MANIFEST_BYTES = 1 << 20

SMALL_BYTES = 1 << 20
"""Files up to this size are verified when the bundle is opened; larger ones when they are read."""

HEAD_BYTES = 64
"""Bytes at the start of a file that show a pointer of Git LFS."""


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: hexadecimal hash and size in bytes."""

    sha256: str
    bytes: int


def read_manifest_bytes(path: Path, name: str = MANIFEST) -> bytes:
    """The bytes of the manifest, or another list of files, in folder `path`; raises BundleError."""
    with open_regular(path, name) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle {path}: {name} is larger than {MAX_MANIFEST_BYTES} bytes")
    return text


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, name: str, entry: FileEntry) -> None:
    """Raise BundleError unless the file is a regular one inside the bundle, of the listed size."""
    file = path / name
    try:
        if not file.resolve().is_relative_to(link_root(path)):
            raise BundleError(f"bundle {path}: {name} leads outside the bundle")
        if not file.is_file():
            what = " as a regular file" if file.exists() else ""
            raise BundleError(f"bundle {path}: {name} is missing{what}")
        size = file.stat().st_size
    except (OSError, RuntimeError) as error:  # RuntimeError: a symbolic link to itself
        raise BundleError(f"bundle {path}: {name} cannot be read: {reason(error)}") from None
    if size != entry.bytes:
        with open_regular(path, name) as opened:
            hint = git_lfs_hint(opened.read(HEAD_BYTES)) or ": it was altered"
        raise BundleError(f"bundle {path}: {name} has {size} bytes, expected {entry.bytes}{hint}")


def link_root(path: Path) -> Path:
    """The folder to which links in the bundle may lead: the bundle itself.

    For a snapshot in huggingface_hub's cache, whose files are links to blobs beside it, it is the model's folder there.
    """
    path = path.resolve()
    return path.parent.parent if path.parent.name == "snapshots" and (path.parent.parent / "blobs").is_dir() else path


def read_verified(path: Path, name: str, entry: FileEntry) -> bytes:
    """The file's bytes, whose hash is the listed one; raises BundleError."""
    try:
        with open_regular(path, name) as file:
            data = file.read(entry.bytes + 1)
    except OSError as error:
        raise BundleError(f"bundle {path}: {name} cannot be read: {reason(error)}") from None
    except MemoryError:
        raise BundleError(f"bundle {path}: not enough memory for the {entry.bytes} bytes of {name}") from None
    if len(data) != entry.bytes:
        raise BundleError(f"bundle {path}: {name} has {len(data)} bytes, expected {entry.bytes}: it was altered")
    check_hash(path, name, entry, hashlib.sha256(data).hexdigest())
    return data


def read_pieces(
    path: Path, name: str, entry: FileEntry, pieces: Sequence[slice], take: Callable[[int, bytes], None]
) -> None:
    """Give `take` the number and the bytes of each piece of a file, one after another, so that it need hold none.

    pieces: in order, apart. The whole file is hashed, so what `take` made is to be used only after this has returned.
    Raises BundleError.
    """
    digest, at = hashlib.sha256(), 0
    try:
        with open_regular(path, name) as file:
            for number, piece in enumerate(pieces):
                if piece.start < at:
                    raise BundleError(f"bundle {path}: two weights overlap at byte {piece.start} of {name}")
                digest.update(file.read(piece.start - at))
                at = file.tell()
                data = file.read(piece.stop - piece.start)
                digest.update(data)
                at += len(data)
                if at < piece.stop:
                    raise BundleError(f"bundle {path}: {name} ends at byte {at}: it was altered")
                take(number, data)
            while rest := file.read(1 << 20):
                digest.update(rest)
    except OSError as error:
        raise BundleError(f"bundle {path}: {name} cannot be read: {reason(error)}") from None
    except MemoryError:
        raise BundleError(f"bundle {path}: not enough memory for the weights in {name}") from None
    check_hash(path, name, entry, digest.hexdigest())


def verify(path: Path, name: str, entry: FileEntry) -> None:
    """Hash a file without holding it in memory; raises BundleError."""
    with open_regular(path, name) as file:
        check_hash(path, name, entry, hashlib.file_digest(file, "sha256").hexdigest())


def check_hash(path: Path, name: str, entry: FileEntry, found: str) -> None:
    if found != entry.sha256:
        raise BundleError(f"bundle {path}: {name} does not have the hash that {MANIFEST} states: it was altered")


def open_regular(path: Path, name: str) -> io.BufferedReader:
    """The file, opened for reading; a pipe or device is refused without waiting. Raises BundleError."""
    try:
        descriptor = os.open(path / name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise BundleError(f"bundle {path}: {name} is not a regular file")
        return os.fdopen(descriptor, "rb")
    except OSError as error:
        raise BundleError(f"bundle {path}: {name} cannot be read: {reason(error)}") from None
