"""GPU kernels into a bundle: compiled ahead of time, listed and hashed like all its files."""

from collections.abc import Sequence
from pathlib import Path

from sdedit.errors import BundleError
from sdedit.runtime.bundle import Bundle, amended, read_bundle, write_manifest
from sdedit.runtime.bundle.kernels import FOLDER

from .triton_kernels import DIVISIBLE_BY, MAX_PIXELS, TARGETS, check_targets, export_kernels


def parse_targets(text: str) -> tuple[str, ...]:
    """ "sm80,sm90", "all", or "ptx" for no cubins beside it. Raises EngineError for an unknown target."""
    named = {"all": TARGETS, "ptx": ()}
    targets = named[text] if text in named else tuple(part.strip() for part in text.split(","))
    check_targets(targets)
    return targets


def add_kernels(source: Path, out: Path, targets: Sequence[str]) -> Bundle:
    """Copy the bundle `source` to `out`, which may be the same, with kernels for these targets in place of any it had.

    Raises BundleError, and EngineError where the kernels cannot be built; then nothing is replaced.
    """
    bundle = read_bundle(source)
    with amended(bundle, out, FOLDER) as folder:
        write_kernels(folder, bundle.state_shape, targets)
        write_manifest(folder, bundle.manifest)
        read_bundle(folder)
    return read_bundle(out)


def write_kernels(folder: Path, shape: tuple[int, int, int], targets: Sequence[str]) -> None:
    """Build the kernels into the bundle that is being written to `folder`, for images of `shape` = (C, H, W)."""
    _, height, width = shape
    if height * width % DIVISIBLE_BY or height * width > MAX_PIXELS:
        raise BundleError(
            f"GPU kernels need height x width divisible by {DIVISIBLE_BY} and at most {MAX_PIXELS}, "
            f"the bundle has {height}x{width}"
        )
    export_kernels(folder / FOLDER, targets)
