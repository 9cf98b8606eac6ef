"""Writing a bundle: complete and verified, or not at all."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdedit.errors import BundleError, reason

from .manifest import MANIFEST, REVISION, _read_manifest
from .reading import Bundle, file_sha256


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    An existing bundle is replaced only then; raises BundleError, at once, where `out` holds anything else.
    """
    try:
        if not out.name or not _is_replaceable(out):
            raise BundleError(f"{out} exists and is not a bundle alone: it is not replaced")
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".sdedit-", dir=out.parent))
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise BundleError(f"bundle {out} cannot be written: {reason(error)}") from None
    try:
        new = temporary / "new"
        new.mkdir()
        yield new
        _replace(out, new, temporary / "old")
    except OSError as error:
        raise BundleError(f"bundle {out} cannot be written: {reason(error)}") from None
    finally:
        if out.exists() or not (temporary / "old").exists():  # else the only copy would go
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def amended(bundle: Bundle, out: Path, part: str) -> Iterator[Path]:
    """`staged`, with all of the bundle's files in it but those of its folder `part`, which is there and empty.

    The block fills that folder and writes the manifest. `out` may be the bundle's own folder.
    """
    with staged(out) as folder:
        for name in bundle.manifest["files"]:
            if not name.startswith(f"{part}/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, folder / name)
        (folder / part).mkdir()
        yield folder


def write_manifest(path: Path, fields: Mapping[str, Any]) -> None:
    """Complete the manifest of the bundle in folder `path`: revision, and size and hash of every file there."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
    entries = {
        file.relative_to(path).as_posix(): {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in files
    }
    manifest = {**fields, "revision": REVISION, "files": entries}
    text = json.dumps(manifest, sort_keys=True, indent=2, allow_nan=False) + "\n"
    (path / MANIFEST).write_text(text, encoding="utf-8", newline="\n")


def _is_replaceable(out: Path) -> bool:
    """Nothing is lost with it: it does not exist, or it is a folder of files that its own manifest lists."""
    if not out.exists():
        return True
    listed = _listed_files(out)
    return out.is_dir() and all(file.is_dir() or file.relative_to(out).as_posix() in listed for file in out.rglob("*"))


def _listed_files(path: Path) -> set[str]:
    """What the manifest says is in the bundle, itself included; empty where there is none."""
    try:
        return {MANIFEST, *json.loads(_read_manifest(path))["files"]}
    except (BundleError, ValueError, TypeError, KeyError, RecursionError):
        return set()


def _replace(out: Path, new: Path, old: Path) -> None:
    """Move `out` to `old` and `new` to `out`, or nothing at all."""
    if out.exists():
        out.rename(old)
    try:
        new.rename(out)
    except BaseException:  # an interrupt as well
        if old.exists():
            old.rename(out)
        raise
