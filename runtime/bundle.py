"""A bundle: the folder that export writes and every target reads. Data only; all of it is verified before use."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any

import numpy as np

from sdedit.errors import BundleError, EngineError, reason
from sdedit.kernels.binaries import FOLDER as KERNELS
from sdedit.kernels.binaries import MANIFEST as KERNELS_MANIFEST
from sdedit.kernels.layout import MAX_ELEMENTS

from .onnx_data import external_files
from .plan import PREDICTIONS
from .schedule import Schedule

REVISION = 2
"""Bump when a reader of the old revision would misread or reject the new files, never otherwise."""

READABLE = (1, REVISION)

MANIFEST = "bundle.json"
NETWORK = "network.onnx"
SCHEDULE = "schedule.npy"
REFERENCE = "reference.npy"
MODEL_CARD = "MODEL_CARD.md"
MAX_MANIFEST_BYTES = 1 << 20

SHIPPED = Path(__file__).parent / "models" / "earth64"
"""The model that comes with the package."""

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
    def shape(self) -> tuple[int, int, int]:
        """C, H, W of the network's images."""
        image = self.manifest["image"]
        return image["channels"], image["height"], image["width"]

    @property
    def network(self) -> Path:
        return self.path / NETWORK

    def reference(self) -> tuple[list[int], np.ndarray]:
        """Levels k [L] and the reference's outputs there, float32 [L, C, H, W].

        The input for output l is sigma_k z with z = normal(seed 0, image l, repeat 0, step 0, begin), and the label
        l mod classes where there are classes.
        """
        levels = self.manifest["parity"]["levels"]
        outputs = _read_array(self.path / REFERENCE, self.path)
        if outputs.dtype != np.float32 or outputs.shape != (len(levels), *self.shape):
            raise BundleError(
                f"bundle {self.path}: {REFERENCE} is {outputs.dtype} {list(outputs.shape)}, "
                f"expected float32 {[len(levels), *self.shape]}"
            )
        return levels, outputs


def read_kernels(bundle: Bundle) -> dict[str, Any]:
    """The manifest of the bundle's GPU kernels (kernels/aot.py); all files it names are verified ones of the bundle.

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
