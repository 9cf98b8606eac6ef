"""ONNX -> TensorRT engine, by TensorRT-RTX on any machine, or by full TensorRT on the GPU that it is for.

TensorRT is told nothing of precisions: networks are strongly typed, the ONNX says what is computed in what.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from sdedit.errors import EngineError

from ..bundle import Network

RTX = "tensorrt_rtx"
FULL = "tensorrt"

RTX_ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""That TensorRT-RTX serves, in the order of the bits in its engines' headers. Hopper and Blackwell of data centres are
full TensorRT's."""

MAGIC = b"vtrt"
HEADER_BYTES = 64


def import_tensorrt(architecture: str) -> ModuleType:
    """The TensorRT for that GPU, RTX where it serves it; raises EngineError that says what to install."""
    if architecture in RTX_ARCHITECTURES and importlib.util.find_spec(RTX) is not None:
        return import_named(RTX)
    if importlib.util.find_spec(FULL) is not None:
        return import_named(FULL)
    package = "tensorrt-rtx" if architecture in RTX_ARCHITECTURES else FULL
    raise EngineError(f"engine tensorrt needs the package {package} for {architecture}: pip install {package}")


def import_named(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: its libraries
        raise EngineError(f"the package {name} cannot be used: {' '.join(str(error).split())[:200]}") from None


def new_logger(trt: Any) -> Any:
    """One that prints nothing and keeps the last error, for our own message."""

    class LastError(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:300]

    return LastError()


def build_engine(
    trt: Any, network: Network, shape: tuple[int, int, int], batches: tuple[int, int], architectures: Sequence[str] = ()
) -> bytes:
    """The engine of an ONNX file x [B, C, H, W], time [B] -> out, for fewest to most images at once.

    architectures: of TensorRT-RTX; none for full TensorRT, which builds for the GPU that is there. Raises EngineError.
    """
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    parsed = builder.create_network(0)
    parser = trt.OnnxParser(parsed, logger)
    parsed_well = parser.parse_from_file(str(network.path)) if network.data is None else parser.parse(network.data)
    if not parsed_well:
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f"{trt.__name__} cannot read {network.path}: {' '.join(errors.split())[:300]}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 is what it says
    if architectures:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else its work cannot be captured
        config.num_compute_capabilities = len(architectures)
        for index, name in enumerate(architectures):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)
    profile = builder.create_optimization_profile()
    least, most = batches
    profile.set_shape("x", (least, *shape), (most, *shape), (most, *shape))
    profile.set_shape("time", (least,), (most,), (most,))
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(parsed, config)
    if built is None:
        raise EngineError(f"{trt.__name__} {trt.__version__} cannot build {network.path}: {logger.last}")
    return bytes(built)


def read_header(engine: bytes) -> tuple[str, tuple[str, ...]]:
    """TensorRT-RTX's version and the architectures that an engine of it is for; raises ValueError for anything else.

    NVIDIA does not document the header; what is read here was compared with builds for all architectures.
    """
    if len(engine) < HEADER_BYTES or engine[:4] != MAGIC or int.from_bytes(engine[16:24], "little") != len(engine):
        raise ValueError("not a TensorRT-RTX engine")
    mask = int.from_bytes(engine[32:36], "little")
    architectures = tuple(name for bit, name in enumerate(RTX_ARCHITECTURES) if mask >> bit & 1)
    return ".".join(str(part) for part in engine[24:28]), architectures
