"""Measurements of `sdedit tune`, remembered in the user's cache directory: one JSON file for a bundle and a machine.

A file that is damaged, or that another version or machine wrote, is ignored.
"""

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdedit import __version__

from ..bundle import Bundle
from ..cache import delete_cached, read_cached, write_cached
from ..machine import available_processors, processor_name
from .names import ENGINES

REVISION = 1
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "openvino")
"""Distributions that may be installed under an engine's name."""


@dataclass(frozen=True)
class Measured:
    """An engine, precision and number of threads that passed the parity check. Times are of one network evaluation."""

    engine: str
    precision: str
    threads: int
    error: float
    median_ms: float
    p5_ms: float
    p95_ms: float


def installed_versions(distributions: Sequence[str] = DISTRIBUTIONS) -> dict[str, str]:
    """Versions of the distributions that are installed, by name; default: those of the engines."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def key(bundle: Bundle) -> dict[str, Any]:
    """Everything that a measurement depends on."""
    return {
        "revision": REVISION,
        "bundle": bundle.sha256,
        "processor": processor_name(),
        "processors": available_processors(),
        "versions": {"sdedit": __version__, **installed_versions()},
    }


def file_name(bundle: Bundle) -> str:
    """Name of the file in the cache directory."""
    digest = hashlib.sha256(json.dumps(key(bundle), sort_keys=True, allow_nan=False).encode()).hexdigest()
    return f"tune-{digest[:32]}.json"


def remembered(bundle: Bundle) -> list[Measured]:
    """Measurements of this bundle on this machine, the fastest first; empty if there are none that can be used."""
    data = read_cached(file_name(bundle))
    if data is None:
        return []
    try:
        stored = json.loads(data)
        if stored["key"] != key(bundle):
            return []
        measured = [Measured(**entry) for entry in stored["measured"]]
        return measured if all(map(is_sound, measured)) else []
    except (ValueError, TypeError, KeyError, RecursionError):
        return []


def is_sound(measured: Measured) -> bool:
    numbers = (measured.error, measured.median_ms, measured.p5_ms, measured.p95_ms)
    return (
        measured.engine in ENGINES["cpu"]
        and measured.precision in ENGINES["cpu"][measured.engine]
        and type(measured.threads) is int
        and measured.threads >= 1
        and all(type(number) is float and math.isfinite(number) for number in numbers)
    )


def remember(bundle: Bundle, measured: Sequence[Measured]) -> Path | None:
    """Remember measurements, the fastest first. Returns the file, or None after a warning if it cannot be written."""
    known = {"key": key(bundle), "measured": [asdict(entry) for entry in measured]}
    text = json.dumps(known, indent=2, allow_nan=False) + "\n"
    return write_cached(file_name(bundle), text.encode())


def forget(bundle: Bundle) -> Path | None:
    """Forget this bundle's measurements on this machine; returns the file that was deleted, or None."""
    return delete_cached(file_name(bundle))
