"""The part variants/: other forms of the network, such as int8, which export writes if edits stay close to float32."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdedit.errors import BundleError, EngineError

from .parts import extend_command, read_part, require_listed
from .reading import Bundle, Network
from .records import Problems

FOLDER = "variants"
VARIANTS = "variants.json"
NAME = f"{FOLDER}/{VARIANTS}"


@dataclass(frozen=True)
class Variant:
    """A network of another precision. file: in the folder. facts: measured at export."""

    file: str
    facts: Mapping[str, Any]

    @property
    def only_weights(self) -> bool:
        """Whether its weights alone are in that precision, and it computes in float32."""
        return self.facts.get("only_weights") is True


def read_variants(bundle: Bundle) -> Mapping[str, Variant]:
    """The bundle's variants by precision, {} if there are none; raises BundleError if their manifest is damaged."""
    variants = read_part(bundle, NAME, parse_variants) or {}
    require_listed(bundle, NAME, [f"{FOLDER}/{variant.file}" for variant in variants.values()])
    return variants


def parse_variants(value: Any, problems: Problems) -> dict[str, Variant] | None:
    """{precision: {file, facts of any kind}} as variants."""
    if not isinstance(value, dict):
        problems.append("it is not an object")
        return None
    variants = {}
    for precision, entry in value.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            problems.append(f"{precision}.file is not of type str")
            continue
        variants[precision] = Variant(entry["file"], {key: fact for key, fact in entry.items() if key != "file"})
    return variants


def read_variant(bundle: Bundle, precision: str) -> Network:
    """The network of that precision, all in one verified file; raises EngineError if the bundle has none."""
    variants = read_variants(bundle)
    if precision not in variants:
        cure = extend_command(bundle, "--int8")
        raise EngineError(f"precision {precision!r}: bundle {bundle.path} has none: {cure}")
    network = bundle.read_network(f"{FOLDER}/{variants[precision].file}")
    if network.places:
        raise BundleError(
            f"bundle {bundle.path}: {network.path.name} has weights in other files: a variant is one file"
        )
    return network
