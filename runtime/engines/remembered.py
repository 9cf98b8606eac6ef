"""What `sdedit tune` measured here, kept in the user's cache directory: one JSON file a bundle and machine.

A file that is damaged, foreign, or of other versions is as good as none.
"""

import hashlib
import importlib.metadata
import json
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdedit import __version__
from sdedit.errors import reason

from ..bundle import Bundle
from ..cache import cache_folder
from ..machine import available_processors, processor_name
from .base import ENGINES, PRECISIONS

REVISION = 1
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "openvino")
"""What may be installed under an engine's name."""


@dataclass(frozen=True)
class Measured:
    """A candidate that passed its parity check. median_ms: of one network evaluation."""

    engine: str
    precision: str
    threads: int
    error: float
    median_ms: float
    p5_ms: float
    p95_ms: float


def installed_versions() -> dict[str, str]:
    """Of the engines' distributions that there are."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def key(bundle: Bundle) -> dict[str, Any]:
    """All that a measurement depends on."""
    return {
        "revision": REVISION,
        "bundle": bundle.sha256,
        "processor": processor_name(),
        "processors": available_processors(),
        "versions": {"sdedit": __version__, **installed_versions()},
    }


def cache_file(bundle: Bundle) -> Path:
    digest = hashlib.sha256(json.dumps(key(bundle), sort_keys=True).encode()).hexdigest()
    return cache_folder() / f"tune-{digest[:32]}.json"


def remembered(bundle: Bundle) -> list[Measured]:
    """What was measured for this bundle here, the best first; empty where nothing usable was."""
    try:
        stored = json.loads(cache_file(bundle).read_text(encoding="utf-8"))
        if stored["key"] != key(bundle):
            return []
        measured = [Measured(**entry) for entry in stored["measured"]]
        return measured if all(map(is_sound, measured)) else []
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []


def is_sound(measured: Measured) -> bool:
    numbers = (measured.error, measured.median_ms, measured.p5_ms, measured.p95_ms)
    return (
        measured.engine in ENGINES
        and measured.precision in PRECISIONS
        and type(measured.threads) is int
        and measured.threads >= 1
        and all(type(number) is float and math.isfinite(number) for number in numbers)
    )


def remember(bundle: Bundle, measured: Sequence[Measured]) -> Path | None:
    """Keep it, the best first; the file is complete or untouched. None, with a warning, where it cannot be written."""
    file = cache_file(bundle)
    text = json.dumps({"key": key(bundle), "measured": [asdict(entry) for entry in measured]}, indent=2) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as temporary:
            temporary.write(text)
        Path(temporary.name).replace(file)
    except OSError as error:
        warnings.warn(f"sdedit: {file} cannot be written, nothing is remembered: {reason(error)}", stacklevel=2)
        return None
    return file
