"""Which engine runs the network on the CUDA device. Precision "auto" is float32, as on the CPU."""

from typing import TYPE_CHECKING

from ..bundle import Bundle
from .base import CudaEngine
from .names import first_engine

if TYPE_CHECKING:
    from ..cuda import Gpu


def open_cuda_engine(bundle: Bundle, gpu: "Gpu", engine: str, precision: str, slots: int) -> CudaEngine:
    """Load the bundle's network for that many slots; names.check_request must have accepted the names.

    Raises EngineError if the engine is missing or refuses the network.
    """
    precision = "float32" if precision == "auto" else precision
    named = first_engine("cuda", precision) if engine == "auto" else engine
    if named == "tensorrt":
        from .tensorrt import TensorRtEngine

        return TensorRtEngine(bundle, gpu, precision, slots)
    if named == "torch":
        from .torch import TorchEngine

        return TorchEngine(bundle, gpu, precision, slots)
    from .onnxruntime import OnnxRuntimeCudaEngine

    return OnnxRuntimeCudaEngine(bundle, gpu)
