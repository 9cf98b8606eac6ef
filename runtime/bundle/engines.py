"""The part engines/: TensorRT engines, each for one precision and some architectures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .manifest import NETWORK
from .parts import read_part, require_listed
from .reading import Bundle
from .records import Problems, read_record
from .variants import FOLDER as VARIANTS
from .variants import read_variants

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

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        batches = fields.get("batches", (1, 1))
        fits = len(batches) == 2 and 1 <= batches[0] <= batches[1]
        problems.require(fits, f"{where}.batches {list(batches)} are not fewest and most")


@dataclass(frozen=True)
class Engines:
    """engines.json."""

    engines: tuple[StoredEngine, ...]


def read_engines(bundle: Bundle) -> Sequence[StoredEngine]:
    """The bundle's engines, () if it has none; raises BundleError if their manifest is damaged."""
    part = read_part(bundle, NAME, lambda value, problems: read_record(Engines, value, "", problems))
    engines = part.engines if part is not None else ()
    require_listed(bundle, NAME, [file for engine in engines for file in (engine.network, f"{FOLDER}/{engine.file}")])
    return engines


def network_of(bundle: Bundle, engines: Sequence[StoredEngine], precision: str) -> str | None:
    """The name of the bundle's ONNX that computes in that precision; None if there is none."""
    if precision == "float32":
        return NETWORK
    variant = read_variants(bundle).get(precision)
    if variant is not None:
        return f"{VARIANTS}/{variant.file}"
    return next((engine.network for engine in engines if engine.precision == precision), None)
