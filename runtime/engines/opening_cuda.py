"""Which engine runs the network on the CUDA device. Precision "auto" is float32, as on the CPU."""

import importlib.util
from typing import TYPE_CHECKING

from sdedit.errors import EngineError

from ..bundle import Bundle
from .base import CudaEngine

if TYPE_CHECKING:
    from ..cuda import Gpu

CUDA_ENGINES = ("tensorrt", "onnxruntime")
"""In the order in which "auto" takes them, each where its package is installed."""

CUDA_PRECISIONS = {"tensorrt": ("float32", "float16"), "onnxruntime": ("float32",)}


def check_cuda_request(engine: str, precision: str, threads: int | None) -> None:
    if engine not in ("auto", *CUDA_ENGINES):
        raise EngineError(f"engine {engine!r} is not one of auto, {', '.join(CUDA_ENGINES)}, which device cuda has")
    accepted = CUDA_PRECISIONS.get(engine, CUDA_PRECISIONS["tensorrt"])
    if precision not in ("auto", *accepted):
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(accepted)}, of device cuda")
    if threads is not None:
        raise EngineError(f"threads {threads} goes with device cpu: a GPU has its own")


def open_cuda_engine(bundle: Bundle, gpu: "Gpu", engine: str, precision: str, slots: int) -> CudaEngine:
    """Load the bundle's network for that many slots. Raises EngineError as open_engine."""
    precision = "float32" if precision == "auto" else precision
    if choose_cuda_engine(engine, precision) == "tensorrt":
        from .tensorrt import TensorRtEngine

        return TensorRtEngine(bundle, gpu, precision, slots)
    from .onnxruntime import OnnxRuntimeCudaEngine

    return OnnxRuntimeCudaEngine(bundle, gpu)


def choose_cuda_engine(engine: str, precision: str) -> str:
    """The engine asked for; where it is left open, the first that is installed and has the precision."""
    if engine != "auto":
        return engine
    packages = {"tensorrt": ("tensorrt_rtx", "tensorrt"), "onnxruntime": ("onnxruntime",)}
    for name in CUDA_ENGINES:
        if precision in CUDA_PRECISIONS[name] and any(map(importlib.util.find_spec, packages[name])):
            return name
    raise EngineError(f"no engine for device cuda is installed ({', '.join(CUDA_ENGINES)}): pip install 'sdedit[cuda]'")
