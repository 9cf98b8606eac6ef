"""Writing a bundle: complete and verified, or not at all. A bundle's files are replaced, never written in place."""

import ctypes
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdedit.errors import BundleError, reason

from .manifest import MANIFEST, REVISION, FileEntry, Manifest, read_manifest_bytes
from .reading import Bundle, file_sha256
from .records import to_json

WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
"""Bits of a file's mode; a file with none of them is read-only, even for root."""

AT_FDCWD = -100
RENAME_EXCHANGE = 2
"""Arguments of Linux's renameat2."""


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends well, and vanishes if it does not.

    An existing bundle is replaced only then. Raises BundleError, at once and again before it is replaced, if `out`
    holds anything but a bundle. A link stands for its target.
    """
    try:
        out = out.resolve() if out.is_symlink() else out
        check_replaceable(out)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".sdedit-", dir=out.parent))
    except (OSError, ValueError, RuntimeError) as error:  # a null character in the name, a circle of links
        raise BundleError(f"bundle {out} cannot be written: {reason(error)}") from None
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        flush(new)
        check_replaceable(out)
        replace(out, new, temporary / "old")
    except OSError as error:
        raise BundleError(f"bundle {out} cannot be written: {reason(error)}") from None
    finally:
        if out.exists() or not (temporary / "old").exists():  # else the only copy would go
            shutil.rmtree(temporary, ignore_errors=True)


def link_files(bundle: Bundle, folder: Path, without: Collection[str] = ()) -> dict[str, FileEntry]:
    """Put the bundle's files into `folder`, as links if the file system has them; returns their entries.

    without: folders of the bundle, such as "variants", whose files are left out.
    """
    entries = {name: entry for name, entry in bundle.manifest.files.items() if name.split("/")[0] not in without}
    for name in entries:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(bundle.path / name, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(bundle.path / name, target)
    return entries


def write_manifest(
    folder: Path, fields: Manifest | Mapping[str, Any], known: Mapping[str, FileEntry] | None = None
) -> dict[str, FileEntry]:
    """Complete the manifest of the bundle in `folder`: revision, and size and hash of every file there.

    known: entries of files that did not change since they were hashed. Returns the entries of all files.
    """
    entries = dict(known or {})
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST):
        name = file.relative_to(folder).as_posix()
        if name not in entries:
            entries[name] = FileEntry(file_sha256(file), file.stat().st_size)
    manifest = {**to_json(fields), "revision": REVISION, "files": to_json(entries)}
    text = json.dumps(manifest, sort_keys=True, indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).unlink(missing_ok=True)  # it may be a link to another bundle's
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return entries


def flush(folder: Path) -> None:
    """Wait until everything in the folder is on the disk: after a power cut a rename must not name empty files."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def check_replaceable(out: Path) -> None:
    """Raise BundleError unless nothing is lost with `out`: nothing is there, or only files that its manifest lists.

    A bundle whose manifest is read-only is not replaced.
    """
    if (out / MANIFEST).is_file() and not (out / MANIFEST).stat().st_mode & WRITABLE:
        raise BundleError(f"bundle {out} is read-only: it is not replaced")
    if not out.name or not (not out.exists() or (out.is_dir() and holds_only(out, listed_files(out)))):
        raise BundleError(f"{out} exists and is not a bundle alone: it is not replaced")


def holds_only(folder: Path, names: Collection[str]) -> bool:
    return all(file.is_dir() or file.relative_to(folder).as_posix() in names for file in folder.rglob("*"))


def listed_files(path: Path) -> set[str]:
    """The files of the bundle by its manifest, which is one of them; empty if there is none."""
    try:
        return {MANIFEST, *json.loads(read_manifest_bytes(path))["files"]}
    except (BundleError, ValueError, TypeError, KeyError, RecursionError):
        return set()


def replace(out: Path, new: Path, old: Path) -> None:
    """Move `out` to `old` and `new` to `out`, or nothing at all.

    Where the system can exchange two folders in one call there is a bundle at `out` at every moment, even if the
    process is killed. Elsewhere a kill between the two renames leaves the old bundle in the temporary folder beside it.
    """
    if out.exists() and exchange(out, new):
        return  # the old one is in `new` now
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:  # an interrupt as well
        if old.exists():
            old.rename(out)
        raise


def exchange(a: Path, b: Path) -> bool:
    """Swap two folders in one call of the system; False if it has none."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0)
