"""The part engines/: TensorRT engines, each for one precision and some architectures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .manifest import NETWORK
from .parts import read_part, require_listed
from .reading import Bundle
from .records import Problems, read_record

FOLDER = "engines"
MANIFEST = "engines.json"
NAME = f"{FOLDER}/{MANIFEST}"


@dataclass(frozen=True)
class StoredEngine:
    """An engine in the bundle. network: the ONNX in the bundle that it was built from, and its hash.

    batches: fewest and most images at once. package, version: of TensorRT. error: of the ONNX against the reference,
    measured on onnxruntime at export.
    """

    file: str
    precision: str
    batches: tuple[int, ...]
    network: str
    network_sha256: str
    package: str
    version: str
    architectures: tuple[str, ...]
    error: float


@dataclass(frozen=True)
class Engines:
    """engines.json."""

    engines: tuple[StoredEngine, ...]


def read_engines(bundle: Bundle) -> Sequence[StoredEngine]:
    """The bundle's engines, () if it has none; raises BundleError if their manifest is damaged."""
    part = read_part(bundle, NAME, parse_engines)
    engines = part.engines if part is not None else ()
    require_listed(bundle, NAME, [file for engine in engines for file in (engine.network, f"{FOLDER}/{engine.file}")])
    return engines


def parse_engines(value: Any, problems: Problems) -> Engines | None:
    part = read_record(Engines, value, "", problems)
    for engine in part.engines if part is not None else ():
        problems.require(len(engine.batches) == 2, f"batches {list(engine.batches)} are not fewest and most")
    return part


def network_of(engines: Sequence[StoredEngine], precision: str) -> str | None:
    """The name of the bundle's ONNX that computes in that precision; None if there is none."""
    if precision == "float32":
        return NETWORK
    return next((engine.network for engine in engines if engine.precision == precision), None)
