"""Which engine runs the network on the CUDA device."""

from sdedit.errors import EngineError

from ..bundle import Bundle
from . import CudaEngine

CUDA_ENGINES = ("tensorrt", "onnxruntime")
"""In the order in which "auto" takes them."""

CUDA_PRECISIONS = ("float32", "float16")


def check_cuda_request(engine: str, precision: str, threads: int | None) -> None:
    if engine not in ("auto", *CUDA_ENGINES):
        raise EngineError(f"engine {engine!r} is not one of auto, {', '.join(CUDA_ENGINES)}, which device cuda has")
    if precision not in ("auto", *CUDA_PRECISIONS):
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(CUDA_PRECISIONS)}, of device cuda")
    if threads is not None:
        raise EngineError(f"threads {threads} goes with device cpu: a GPU has its own")


def open_cuda_engine(bundle: Bundle, gpu: object, engine: str, precision: str, slots: int) -> CudaEngine:
    raise EngineError("not yet")
