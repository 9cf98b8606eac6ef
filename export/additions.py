"""Parts added to a bundle that exists, or that is being written: kernels, engines, a network in int8, a palette."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdedit.runtime.bundle import Bundle, link_files, read_bundle, staged, write_manifest

Write = Callable[[Bundle], str]
"""Write a part's files into the folder of a bundle that is being written; returns a line for people."""


@dataclass(frozen=True)
class Addition:
    """A part to add. folder: where its files lie in the bundle; it replaces an older part of that name."""

    folder: str
    write: Write


def extend_bundle(source: Path, out: Path, additions: Sequence[Addition], say: Callable[[str], None] = print) -> Bundle:
    """Write the bundle `source` with these parts to `out`, which may be the same folder.

    Files that do not change are linked, not copied, and keep their hashes. Raises BundleError, EngineError, and what
    a part's writer raises; then nothing is replaced.
    """
    bundle = read_bundle(source, verify_all=True)
    with staged(out) as folder:
        link_files(bundle, folder, {addition.folder for addition in additions})
        add_parts(bundle, folder, additions, say)
    return read_bundle(out)


def add_parts(bundle: Bundle, folder: Path, additions: Sequence[Addition], say: Callable[[str], None]) -> None:
    """Add the parts to the bundle that is being written to `folder`, one after another.

    bundle: what is there before the first part, already verified.
    """
    replaced = {addition.folder for addition in additions}
    known = {name: entry for name, entry in bundle.manifest.files.items() if name.split("/")[0] not in replaced}
    for addition in additions:
        known = write_manifest(folder, bundle.manifest, known)
        (folder / addition.folder).mkdir(exist_ok=True)
        say(addition.write(read_bundle(folder)))
    write_manifest(folder, bundle.manifest, known)
    read_bundle(folder)
