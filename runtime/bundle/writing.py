"""Filling the folder of a bundle that is being written. A bundle's files are replaced, never written in place."""

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .files import MANIFEST, SMALL_BYTES, FileEntry, file_sha256, verify
from .manifest import REVISION, Manifest
from .reading import Bundle
from .records import to_json


def link_files(bundle: Bundle, folder: Path, without: Collection[str] = ()) -> dict[str, FileEntry]:
    """Put the bundle's files into `folder`; returns their entries.

    Large files are links, if the file system has them. Small ones, which people may edit in place, are copies. without:
    folders of the bundle, such as "variants", whose files are left out. Raises BundleError for a file that was altered.
    """
    entries = {name: entry for name, entry in bundle.manifest.files.items() if name.split("/")[0] not in without}
    for name, entry in entries.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.bytes <= SMALL_BYTES:
            target.write_bytes(bundle.read(name))
            continue
        try:
            os.link(bundle.path / name, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(bundle.path / name, target)
            verify(folder, name, entry)
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
