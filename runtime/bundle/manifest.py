"""bundle.json: its revisions, keys and values."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any

import numpy as np

from sdedit.errors import BundleError
from sdedit.kernels.layout import MAX_ELEMENTS

from ..schedule import PREDICTIONS

REVISION = 2
"""Bump when a reader of the old revision would misread or reject the new files, never otherwise."""

READABLE = (1, REVISION)

MANIFEST = "bundle.json"

NETWORK = "network.onnx"

SCHEDULE = "schedule.npy"

REFERENCE = "reference.npy"

MODEL_CARD = "MODEL_CARD.md"

MAX_MANIFEST_BYTES = 1 << 20

CONDITIONINGS = ("none", "label")

MAX_CLASSES = 1_000_000

SCHEMA = {
    "revision": int,
    "name": str,
    "licence": str,
    "source": {"name": str, "sha256": str},
    "image": {"channels": int, "height": int, "width": int, "multiple_of": int},
    "prediction": str,
    "conditioning": str,
    "classes": int,
    "null_label": (int, NoneType),
    "schedule": {"name": str, "levels": int},
    "files": dict,
    "exported_with": dict,
    "parity": {"levels": list, "max_relative_error": float, "engines": dict, "weights": str, "weights_rounding": float},
}
"""The manifest's keys and types; docs/design.md says what they mean."""

SINCE_REVISION_1: dict[str, Any] = {"classes": 0, "null_label": None}

PARITY_SINCE_REVISION_1: dict[str, Any] = {"engines": {}}
"""Keys that revision 1 did not have, and what it meant."""


@dataclass(frozen=True)
class TensorSpec:
    """One input of a network: its dtype, and its shape without the batch that comes first."""

    dtype: np.dtype
    shape: tuple[int, ...]


def network_inputs(state_shape: tuple[int, int, int], classes: int = 0) -> dict[str, TensorSpec]:
    """The inputs of a network of states [C, H, W]: x and time, and a label where it takes that many classes."""
    inputs = {"x": TensorSpec(np.dtype(np.float32), state_shape), "time": TensorSpec(np.dtype(np.float32), ())}
    return {**inputs, "label": TensorSpec(np.dtype(np.int64), ())} if classes else inputs


def _read_manifest(path: Path) -> bytes:
    try:
        with (path / MANIFEST).open("rb") as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise BundleError(f"bundle {path}: {MANIFEST} cannot be read: {error.strerror}") from None
    if len(text) > MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle {path}: {MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    return text


def _parse_manifest(path: Path, text: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(f"bundle {path}: {MANIFEST} is not valid JSON") from None
    revision = manifest.get("revision") if isinstance(manifest, dict) else None
    if type(revision) is not int:
        raise BundleError(f"bundle {path}: {MANIFEST} states no revision")
    if revision not in READABLE:
        hint = "a newer sdedit is needed" if revision > REVISION else "export it again"
        raise BundleError(f"bundle {path}: revision {revision} is not in {READABLE}, which this version reads: {hint}")
    if revision == 1:
        manifest = _from_revision_1(manifest)
    try:
        _check_schema(manifest, SCHEMA, "")
        _check_values(manifest)
    except ValueError as error:
        raise BundleError(f"bundle {path}: {MANIFEST}: {error}") from None
    return manifest


def _from_revision_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """As revision 2 says it; raises BundleError by way of the schema where it is no manifest of revision 1."""
    new = {**SINCE_REVISION_1, **manifest}
    if isinstance(new.get("parity"), dict):
        new["parity"] = {**PARITY_SINCE_REVISION_1, **new["parity"]}
    return new


def _check_schema(value: Any, schema: Any, where: str) -> None:
    if not isinstance(schema, dict):
        accepted = schema if isinstance(schema, tuple) else (schema,)
        if type(value) not in accepted:
            raise ValueError(f"{where} is not of type {' or '.join(kind.__name__ for kind in accepted)}")
        return
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    missing, unknown = sorted(schema.keys() - value.keys()), sorted(value.keys() - schema.keys())
    if missing or unknown:
        raise ValueError(f"{where or 'it'} lacks {missing} and has unknown {unknown}")
    for key, part in schema.items():
        _check_schema(value[key], part, f"{where}.{key}".lstrip("."))


def _check_values(manifest: dict[str, Any]) -> None:
    if not manifest["name"].isprintable():
        raise ValueError(f"name {manifest['name']!r} is not printable")
    for name, accepted in (("prediction", PREDICTIONS), ("conditioning", CONDITIONINGS)):
        if manifest[name] not in accepted:
            raise ValueError(f"{name} {manifest[name]!r} is not one of {', '.join(accepted)}")
    image = manifest["image"]
    if min(image.values()) < 1 or image["channels"] * image["height"] * image["width"] > MAX_ELEMENTS:
        raise ValueError(f"image {image} is not a size")
    if image["height"] % image["multiple_of"] or image["width"] % image["multiple_of"]:
        raise ValueError(f"image {image} is not a multiple of multiple_of")
    for name, entry in manifest["files"].items():
        _check_schema(entry, {"sha256": str, "bytes": int}, f"files[{name!r}]")
        if not _stays_inside(name):
            raise ValueError(f"files: path {name!r} does not stay in the bundle")
    _check_labels(manifest)
    levels = manifest["parity"]["levels"]
    if not all(type(k) is int and 1 <= k <= manifest["schedule"]["levels"] for k in levels):
        raise ValueError(f"parity.levels {levels} are not levels of the schedule")
    for name in (NETWORK, SCHEDULE, REFERENCE):
        if name not in manifest["files"]:
            raise ValueError(f"files lack {name}")


def _check_labels(manifest: dict[str, Any]) -> None:
    conditioning, classes, null = (manifest[name] for name in ("conditioning", "classes", "null_label"))
    accepted = range(1, MAX_CLASSES + 1) if conditioning == "label" else range(1)
    if classes not in accepted:
        raise ValueError(f"classes {classes} is not in {accepted[0]}..{accepted[-1]}, with conditioning {conditioning}")
    if null is not None and not (classes and 0 <= null <= classes):
        raise ValueError(f"null_label {null} is not in 0..classes")


def _stays_inside(name: str) -> bool:
    """Whether it is a plain relative path. With a `*` onnxruntime marks data at an address in memory, not in a file."""
    pure = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set("\\:*") and str(pure) == name != "."
    return plain and not pure.is_absolute() and ".." not in pure.parts
