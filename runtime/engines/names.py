"""The one table of engines and precisions: what each device accepts, and which engines are installed."""

import importlib.util
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path

from sdedit.errors import EngineError, install_hint, shown

ENGINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "cpu": {"onnxruntime": ("float32",), "openvino": ("float32", "bfloat16", "int8")},
    "cuda": {
        "tensorrt": ("float32", "float16", "int8"),
        "onnxruntime": ("float32",),
        "torch": ("float32", "float16", "bfloat16"),
    },
}
"""Precisions by device and engine. "auto" takes a device's first engine that is installed and has the precision."""

ENGINE_NAMES = tuple(dict.fromkeys(name for engines in ENGINES.values() for name in engines))
"""Engines of all devices."""

PRECISION_NAMES = tuple(dict.fromkeys(p for engines in ENGINES.values() for names in engines.values() for p in names))
"""Precisions of all engines."""

PACKAGES = {"tensorrt": ("tensorrt_rtx", "tensorrt")}
"""Packages of which an engine needs one; other engines have the name of their package."""

CUDA_PARTS = {"onnxruntime": "capi/*onnxruntime_providers_cuda*", "torch": "lib/*torch_cuda*"}
"""Files in the folder of an engine's package that only its builds for CUDA have."""

MAX_THREADS = 1024
"""Above, engines fail in ways of their own."""


def precisions_of(device: str, engine: str = "auto") -> tuple[str, ...]:
    """Precisions of an engine on a device; "auto": of all its engines."""
    engines = ENGINES[device]
    chosen = engines.values() if engine == "auto" else [engines[engine]]
    return tuple(dict.fromkeys(precision for names in chosen for precision in names))


def installed_engines(device: str = "cpu") -> list[str]:
    """The device's engines that are installed, in the table's order."""
    return [name for name in ENGINES[device] if is_installed(name, device)]


def is_installed(engine: str, device: str) -> bool:
    """Whether the engine's package is installed, in a build for that kind of device."""
    specs = [importlib.util.find_spec(package) for package in PACKAGES.get(engine, (engine,))]
    if device == "cuda" and engine in CUDA_PARTS:
        folders = [Path(folder) for spec in specs if spec for folder in spec.submodule_search_locations or ()]
        return any(any(folder.glob(CUDA_PARTS[engine])) for folder in folders)
    return any(specs)


def first_engine(device: str, precision: str) -> str:
    """The engine that "auto" means: the first installed one that has the precision. Raises EngineError if none is."""
    having = [name for name, precisions in ENGINES[device].items() if precision in precisions]
    for name in having:
        if is_installed(name, device):
            return name
    missing = f"no engine of device {device} for {precision} is installed ({', '.join(having)})"
    raise EngineError(f"{missing}: {install_hint(device)}")


def check_request(device: str, engine: str, precision: str, threads: int | None) -> None:
    """Raise EngineError unless the device accepts the engine, the precision and the threads."""
    engines = ENGINES[device]
    if engine not in ("auto", *engines):
        raise EngineError(f"engine {shown(engine)} is not one of auto, {', '.join(engines)}, which device {device} has")
    accepted = precisions_of(device, engine)
    if precision not in ("auto", *accepted):
        owner = f"device {device}" if engine == "auto" else f"engine {engine} on device {device}"
        raise EngineError(f"precision {shown(precision)} is not one of auto, {', '.join(accepted)}, which {owner} has")
    if threads is None:
        return
    if device == "cuda":
        raise EngineError(f"threads {threads} goes with device cpu: a GPU has its own")
    if not isinstance(threads, Integral):
        raise EngineError(f"threads {shown(threads)} is not an integer in 1..{MAX_THREADS}")
    if not 1 <= threads <= MAX_THREADS:
        raise EngineError(f"threads {shown(threads)} is not in 1..{MAX_THREADS}")
