"""Reading a bundle: everything in it is verified before it is used."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import BundleError, EngineError, reason

from ..schedule import Schedule
from .external_data import external_files
from .kernels import FOLDER as KERNELS
from .kernels import MANIFEST as KERNELS_MANIFEST
from .manifest import (
    MANIFEST,
    NETWORK,
    REFERENCE,
    SCHEDULE,
    TensorSpec,
    _parse_manifest,
    _read_manifest,
    network_inputs,
)

SHIPPED = Path(__file__).parent.parent / "models" / "earth64"
"""The model that comes with the package."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. sha256 is that of its manifest, which holds the hashes of all other files."""

    path: Path
    sha256: str
    manifest: Mapping[str, Any]
    schedule: Schedule

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def prediction(self) -> str:
        return self.manifest["prediction"]

    @property
    def classes(self) -> int:
        """How many labels the network takes, 0 .. classes - 1; 0: it takes none."""
        return self.manifest["classes"]

    @property
    def null_label(self) -> int | None:
        """The label that stands for no class, which guidance needs; it may be `classes`. None where there is none."""
        return self.manifest["null_label"]

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """C, H, W of the network's state; for pixels that of the picture too."""
        image = self.manifest["image"]
        return image["channels"], image["height"], image["width"]

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        """The network's inputs by name."""
        return network_inputs(self.state_shape, self.classes)

    @property
    def network(self) -> Path:
        return self.path / NETWORK

    @property
    def reference_levels(self) -> list[int]:
        """The levels k at which the reference's outputs are."""
        return self.manifest["parity"]["levels"]

    def reference(self) -> tuple[list[int], np.ndarray]:
        """Levels k [L] and the reference's outputs there, float32 [L, C, H, W].

        The input for output l is sigma_k z with z = normal(seed 0, image l, repeat 0, step 0, begin), and the label
        l mod classes where there are classes.
        """
        levels = self.reference_levels
        outputs = _read_array(self.path / REFERENCE, self.path)
        if outputs.dtype != np.float32 or outputs.shape != (len(levels), *self.state_shape):
            raise BundleError(
                f"bundle {self.path}: {REFERENCE} is {outputs.dtype} {list(outputs.shape)}, "
                f"expected float32 {[len(levels), *self.state_shape]}"
            )
        return levels, outputs


def read_kernels(bundle: Bundle) -> dict[str, Any]:
    """The manifest of the bundle's GPU kernels (export/triton_kernels.py); the bundle has all files that it names.

    Raises EngineError where there are no kernels, BundleError where their manifest is damaged.
    """
    listed = bundle.manifest["files"]
    name = f"{KERNELS}/{KERNELS_MANIFEST}"
    if name not in listed:
        path = bundle.path
        raise EngineError(f"bundle {path} has no GPU kernels: sdedit export {path} --cubins all --out {path}")
    try:
        kernels = json.loads((bundle.path / name).read_text(encoding="utf-8"))
        files = [file["file"] for k in kernels["kernels"].values() for file in (k["ptx"], *k["cubins"].values())]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BundleError(f"bundle {bundle.path}: {name} is damaged") from None
    strangers = [file for file in files if f"{KERNELS}/{file}" not in listed]
    if strangers:
        raise BundleError(f"bundle {bundle.path}: {name} names {strangers[0]!r}, which {MANIFEST} does not list")
    return kernels


def read_bundle(path: str | Path) -> Bundle:
    """Read and verify a bundle: revision, schema, sizes, hashes, and that no path leaves the folder.

    Raises BundleError, on one line, for anything that is wrong with it.
    """
    path = Path(path)
    _check_folder(path)
    text = _read_manifest(path)
    manifest = _parse_manifest(path, text)
    for name, entry in manifest["files"].items():
        _verify_file(path, name, entry)
    _verify_network(path, manifest)
    schedule = _read_schedule(path, manifest)
    return Bundle(path, hashlib.sha256(text).hexdigest(), manifest, schedule)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_folder(path: Path) -> None:
    try:
        if not path.exists():
            raise BundleError(f"bundle {path}: no such folder")
        if not path.is_dir():
            raise BundleError(f"bundle {path}: not a folder")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise BundleError(f"bundle {path} cannot be read: {reason(error)}") from None


def _verify_file(path: Path, name: str, entry: dict[str, Any]) -> None:
    file = path / name
    try:
        if not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"bundle {path}: {name} leads outside the bundle")
        if not file.is_file():
            raise BundleError(f"bundle {path}: {name} is missing")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise BundleError(f"bundle {path}: {name} has {size} bytes, expected {entry['bytes']}: it was altered")
        if file_sha256(file) != entry["sha256"]:
            raise BundleError(f"bundle {path}: {name} does not have the hash that {MANIFEST} states: it was altered")
    except (OSError, RuntimeError) as error:  # RuntimeError: a symbolic link to itself
        raise BundleError(f"bundle {path}: {name} cannot be read: {reason(error)}") from None


def _verify_network(path: Path, manifest: dict[str, Any]) -> None:
    try:
        asked = external_files(path / NETWORK)
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle {path}: {NETWORK}: {reason(error)}") from None
    strangers = sorted(asked - manifest["files"].keys())
    if strangers:
        raise BundleError(f"bundle {path}: {NETWORK} asks for {strangers[0]!r}, which {MANIFEST} does not list")


def _read_schedule(path: Path, manifest: dict[str, Any]) -> Schedule:
    table = _read_array(path / SCHEDULE, path)
    try:
        schedule = Schedule(table)
    except ValueError as error:
        raise BundleError(f"bundle {path}: {SCHEDULE}: {error}") from None
    if len(schedule) != manifest["schedule"]["levels"]:
        raise BundleError(
            f"bundle {path}: {SCHEDULE} has {len(schedule)} levels, {MANIFEST} says {manifest['schedule']['levels']}"
        )
    return schedule


def _read_array(file: Path, path: Path) -> np.ndarray:
    try:
        with file.open("rb") as opened:
            return np.lib.format.read_array(opened, allow_pickle=False)
    except Exception as error:  # numpy raises half a dozen types for damaged headers
        raise BundleError(f"bundle {path}: {file.name} is not a readable array: {reason(error)}") from None
