"""Other forms of a bundle's network, in its folder variants/: int8, which export writes where edits stay close."""

import json
from pathlib import Path
from typing import Any

from sdedit.errors import BundleError, EngineError, reason

from .external_data import external_files
from .manifest import MANIFEST
from .reading import Bundle

FOLDER = "variants"
VARIANTS = "variants.json"
"""Precision -> {file, and what was measured at export}."""


def read_variants(bundle: Bundle) -> dict[str, Any]:
    """What variants.json says, {} where there is none; raises BundleError where it is damaged."""
    name = f"{FOLDER}/{VARIANTS}"
    if name not in bundle.manifest["files"]:
        return {}
    try:
        variants: dict[str, Any] = json.loads((bundle.path / name).read_text(encoding="utf-8"))
        strangers = [v["file"] for v in variants.values() if f"{FOLDER}/{v['file']}" not in bundle.manifest["files"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise BundleError(f"bundle {bundle.path}: {name} is damaged") from None
    if strangers:
        raise BundleError(f"bundle {bundle.path}: {name} names {strangers[0]!r}, which {MANIFEST} does not list")
    return variants


def variant_network(bundle: Bundle, precision: str) -> Path:
    """The graph of that precision, all in one verified file; raises EngineError where the bundle has none."""
    variants = read_variants(bundle)
    if precision not in variants:
        path = bundle.path
        raise EngineError(f"precision {precision!r}: bundle {path} has none: sdedit export {path} --int8 --out {path}")
    network = bundle.path / FOLDER / str(variants[precision]["file"])
    try:
        asked = external_files(network)
    except (OSError, ValueError) as error:
        raise BundleError(f"bundle {bundle.path}: {network.name}: {reason(error)}") from None
    if asked:
        raise BundleError(f"bundle {bundle.path}: {network.name} asks for {min(asked)!r}: a variant is one file")
    return network
