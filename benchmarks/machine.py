"""Describe what a measurement depends on: machine, load, versions, commit, and the peak rate of matrix products."""

import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sdedit import __version__
from sdedit.runtime.engines.importing import import_openvino, open_core
from sdedit.runtime.engines.openvino import HINTS
from sdedit.runtime.engines.remembered import installed_versions
from sdedit.runtime.machine import processor_features, processor_name

DISTRIBUTIONS = ("numpy", "onnxruntime", "openvino", "nncf", "torch", "diffusers")
SIZE = 2048
"""Rows and columns of the matrices."""
REPEATS = 8


def describe(threads: int) -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "features": processor_features(),
        "threads": threads,
        "python": platform.python_version(),
        "versions": {"sdedit": __version__, **installed_versions(DISTRIBUTIONS)},
        "commit": commit(),
    }


def commit() -> str:
    """Commit of the clone that this runs from, with "+" if files differ from it; "unknown" outside a clone."""
    folder = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def peaks(threads: int, deadline: float) -> dict[str, dict[str, float]]:
    """Precision -> library -> GFLOP/s (int8: GOP/s) of a matrix product, without libraries that cannot compute it.

    deadline: time by time.perf_counter after which nothing is started.
    """
    ways: dict[str, dict[str, Callable[[], Callable[[], object]]]] = {
        "float32": {
            "numpy": numpy_product,
            "torch": lambda: torch_product("float32", threads),
            "openvino": lambda: openvino_product("float32", threads),
        },
        "bfloat16": {
            "torch": lambda: torch_product("bfloat16", threads),
            "openvino": lambda: openvino_product("bfloat16", threads),
        },
        "int8": {
            "torch": lambda: torch_product("int8", threads),
            "openvino": lambda: openvino_product("int8", threads),
        },
    }
    found: dict[str, dict[str, float]] = {}
    for precision, libraries in ways.items():
        for library, prepare in libraries.items():
            if time.perf_counter() > deadline:
                return found
            try:
                found.setdefault(precision, {})[library] = rate(prepare())
            except Exception:  # not installed, or not on this processor: the libraries' errors share no base class
                continue
    return found


def rate(product: Callable[[], object]) -> float:
    """The fastest of several runs in GFLOP/s: a peak is the rate of an undisturbed machine."""
    product()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        product()
        times.append(time.perf_counter() - start)
    return 2 * SIZE**3 / min(times) / 1e9


def numpy_product() -> Callable[[], object]:
    a, out = np.ones((SIZE, SIZE), np.float32), np.empty((SIZE, SIZE), np.float32)
    return lambda: np.matmul(a, a, out=out)


def torch_product(precision: str, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    a = torch.ones(SIZE, SIZE).to(getattr(torch, precision))
    return (lambda: torch._int_mm(a, a)) if precision == "int8" else (lambda: a @ a)


def openvino_product(precision: str, threads: int) -> Callable[[], object]:
    """Product of an input and constant weights, which openvino packs beforehand; for int8 both are quantised."""
    ov = import_openvino()
    core, ops = open_core(ov), ov.opset13
    if precision == "bfloat16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError("it would fall back to float32")
    x = ops.parameter([SIZE, SIZE], ov.Type.f32)
    weights = ops.constant(np.random.default_rng(0).standard_normal((SIZE, SIZE), np.float32))
    left, right = x, weights
    if precision == "int8":
        low, high = np.float32(-4), np.float32(4)
        left, right = (ops.fake_quantize(side, low, high, low, high, 255) for side in (x, weights))
    model = ov.Model([ops.matmul(left, right, False, False)], [x])
    hint = HINTS.get(precision, "f32")
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(np.ones((SIZE, SIZE), np.float32)))
    return lambda: request.infer(share_outputs=True)
