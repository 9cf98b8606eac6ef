"""The engines that a bundle carries: engines/engines.json says what each is for."""

import json
from collections.abc import Mapping
from typing import Any

from sdedit.errors import BundleError

from .manifest import NETWORK
from .reading import Bundle

FOLDER = "engines"
MANIFEST = "engines.json"

KEYS = {
    "file": str,
    "precision": str,
    "batches": list,
    "network": str,
    "network_sha256": str,
    "package": str,
    "version": str,
    "architectures": list,
    "error": float,
}
"""Of an entry. network: the ONNX in the bundle that it was built from. batches: fewest and most images at once. error:
of that ONNX against the reference, on onnxruntime at export."""


def read_engines(bundle: Bundle) -> list[Mapping[str, Any]]:
    """The entries of the bundle's engines, none where it has none; all files they name are verified ones of the bundle.

    Raises BundleError where their manifest is damaged.
    """
    listed = bundle.manifest["files"]
    name = f"{FOLDER}/{MANIFEST}"
    if name not in listed:
        return []
    try:
        entries = json.loads((bundle.path / name).read_text(encoding="utf-8"))["engines"]
        sound = all(set(e) == set(KEYS) and all(type(e[k]) is kind for k, kind in KEYS.items()) for e in entries)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        sound = False
    if not sound:
        raise BundleError(f"bundle {bundle.path}: {name} is damaged")
    for entry in entries:
        for file in (entry["network"], f"{FOLDER}/{entry['file']}"):
            if file not in listed:
                raise BundleError(f"bundle {bundle.path}: {name} names {file!r}, which it does not have")
    return list(entries)


def network_of(bundle: Bundle, entries: list[Mapping[str, Any]], precision: str) -> str | None:
    """The ONNX in the bundle that computes in that precision, by its name; None where there is none."""
    if precision == "float32":
        return NETWORK
    return next((entry["network"] for entry in entries if entry["precision"] == precision), None)
