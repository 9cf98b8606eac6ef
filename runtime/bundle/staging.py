"""Putting a new bundle in the place of an old one: complete or not at all, and never over anything else.

The bundle is written to a temporary folder beside its place. That folder is locked while its process lives, so that
the next export beside it removes what a killed process left. On Linux one call of the system exchanges the old bundle
and the new one: there is a bundle at every moment. Elsewhere there are two renames; if the process is killed between
them, the next export beside it brings the old bundle back. Other folders that list their own files are put in their
places in the same way: see Kind.
"""

import ctypes
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sdedit.errors import BundleError, reason

from .files import MANIFEST, read_manifest_bytes
from .installed import refuse_installed

PREFIX = ".sdedit-bundle-"
NEW, OLD, PLACE = "new", "old", "place"
"""In the temporary folder: the new bundle, the old one, and a file with the name of their place."""

AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
"""Arguments of Linux's renameat2."""

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
"""Bits of a file's mode; a file with none of them is read-only, even for root."""

Identity = tuple[int, int] | None
"""Device and number of what is at a path; None if nothing is."""


@dataclass(frozen=True)
class Kind:
    """A kind of folder. noun: its name in messages. listing: its file, in JSON, whose `files` names all others."""

    noun: str
    listing: str


BUNDLE = Kind("bundle", MANIFEST)


@contextmanager
def staged(out: Path, kind: Kind = BUNDLE) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends well, and vanishes if it does not.

    Raises BundleError, at once, if `out` holds anything but a folder of that kind, or lies among the installed models;
    and at the end if anything was put there in the meantime: then that stays as it is, and the new folder is kept
    beside it under a name that the error states. A link stands for its target.
    """
    try:
        refuse_installed(out)
        out = out.resolve() if out.is_symlink() else out
        check_replaceable(out, kind)
        before = identity(out)
        out.parent.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:  # a null character in the name, a circle of links
        raise BundleError(f"{kind.noun} {out} cannot be written: {reason(error)}") from None
    try:
        with temporary_folder(out.parent) as temporary:
            new = temporary / NEW
            new.mkdir()
            yield new
            flush(new)
            put(new, out, before, kind)
            flush_path(out.parent)
    except OSError as error:
        raise BundleError(f"{kind.noun} {out} cannot be written: {reason(error)}") from None


def check_replaceable(out: Path, kind: Kind) -> None:
    """Raise BundleError unless nothing is lost with `out`: nothing is there, or only files that its listing names.

    A folder whose listing is read-only is not replaced.
    """
    if (out / kind.listing).is_file() and not (out / kind.listing).stat().st_mode & WRITABLE:
        raise BundleError(f"{kind.noun} {out} is read-only: it is not replaced")
    if not out.name or (out.exists() and not is_alone(out, kind)):
        raise BundleError(f"{out} exists and is not a {kind.noun} alone: it is not replaced")


def is_alone(folder: Path, kind: Kind) -> bool:
    """Whether it is a folder of files that its own listing names; an empty folder is one."""
    if not folder.is_dir():
        return False
    try:
        listed = {kind.listing, *json.loads(read_manifest_bytes(folder, kind.listing))["files"]}
    except (BundleError, ValueError, TypeError, KeyError, RecursionError):
        listed = set()
    return all(file.is_dir() or file.relative_to(folder).as_posix() in listed for file in folder.rglob("*"))


def identity(path: Path) -> Identity:
    """Which file, folder or link is at the path."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def put(new: Path, out: Path, before: Identity, kind: Kind) -> None:
    """Move `new` to `out`, if what is there is what was there before and still nothing is lost with it."""
    if before is None:
        placed = move_to_free(new, out)
    elif identity(out) != before:
        placed = False
    elif rename_by_system(new, out, RENAME_EXCHANGE):
        placed = is_unchanged(new, before, kind)  # looked at where nobody else puts files
        if not placed:
            rename_by_system(new, out, RENAME_EXCHANGE)
    else:
        placed = replace_in_two_steps(new, out, before, kind)
    if not placed:
        kept = beside(out, new)
        raise BundleError(
            f"{out} changed while the {kind.noun} was written, and stays as it is; the new {kind.noun} is {kept}"
        )


def is_unchanged(path: Path, before: Identity, kind: Kind) -> bool:
    return identity(path) == before and is_alone(path, kind)


def replace_in_two_steps(new: Path, out: Path, before: Identity, kind: Kind) -> bool:
    """Move `out` away and `new` to `out`, or nothing at all; whether `out` was what it was before."""
    old = new.with_name(OLD)
    new.with_name(PLACE).write_text(out.name, encoding="utf-8", errors="surrogateescape")
    out.rename(old)
    try:
        if not is_unchanged(old, before, kind):
            old.rename(out)
            return False
        new.rename(out)
    except BaseException:  # an interrupt as well
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    return True


def move_to_free(new: Path, out: Path) -> bool:
    """Move `new` to `out` if nothing is there; whether nothing was."""
    try:
        if not rename_by_system(new, out, RENAME_NOREPLACE):
            if identity(out) is not None:
                return False
            new.rename(out)
    except FileExistsError:
        return False
    return True


def beside(out: Path, new: Path) -> Path:
    """Move `new` to a free name beside `out`."""
    number = 1
    while not move_to_free(new, out.with_name(f"{out.name[:200]}.{number}")):
        number += 1
    return out.with_name(f"{out.name[:200]}.{number}")


def rename_by_system(a: Path, b: Path, how: int) -> bool:
    """Linux's renameat2; False if this system or file system has none of it. Raises OSError."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), how) == 0:
        return True
    error = ctypes.get_errno()
    failure = OSError(error, os.strerror(error), str(b))
    if isinstance(failure, FileExistsError | FileNotFoundError | PermissionError):
        raise failure
    return False


# The temporary folder.


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` that is removed at the end, unless it holds the only copy of an old bundle."""
    remove_leftovers(parent)
    folder, lock = make_locked(parent)
    try:
        yield folder
    finally:
        restore(folder)
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def make_locked(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and the descriptor that locks it while it is open; None on systems without such locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        if sys.platform == "win32":
            return folder, None
        lock = try_lock(folder)
        if lock is not None and folder.exists():  # else a process that tidies up was faster
            return folder, lock
        if lock is not None:
            os.close(lock)


def try_lock(folder: Path) -> int | None:
    """Lock the folder for this process; None if another one holds it, or it is gone, or cannot be locked."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:  # a file system without locks
        return descriptor
    return descriptor


def remove_leftovers(parent: Path) -> None:
    """Remove temporary folders in `parent` whose processes are dead, and bring back old bundles from them."""
    for folder in parent.glob(f"{PREFIX}*"):
        lock = try_lock(folder)
        if lock is None:
            continue
        try:
            restore(folder)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def restore(folder: Path) -> None:
    """Bring an old bundle in the temporary folder back to its place, if nothing is there."""
    old = folder / OLD
    with suppress(OSError):
        place = folder.with_name((folder / PLACE).read_text(encoding="utf-8", errors="surrogateescape"))
        if identity(old) is not None and identity(place) is None:
            old.rename(place)


# On the disk.


def flush(folder: Path) -> None:
    """Wait until everything in the folder is on the disk: after a power cut a rename must not name empty files."""
    for path in folder.rglob("*"):
        flush_path(path)
    flush_path(folder)


def flush_path(path: Path) -> None:
    """Wait until a file, or a folder's list of files, is on the disk."""
    if sys.platform == "win32":  # it has no such call for what is opened for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
