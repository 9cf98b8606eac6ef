"""Building TensorRT engines from ONNX: with TensorRT-RTX on any machine, with full TensorRT on the GPU that runs them.

TensorRT chooses no precision: networks are strongly typed, so each operation has the type that the ONNX file gives it.
"""

import importlib
import importlib.util
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from sdedit.errors import EngineError, raise_interrupt

from ..bundle import Bundle, Network

RTX = "tensorrt_rtx"
FULL = "tensorrt"

RTX_ARCHITECTURES = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Architectures that TensorRT-RTX serves, in the order of the bits in its engines' headers. Full TensorRT serves Hopper
and the Blackwell of data centres."""

MAGIC = b"vtrt"
HEADER_BYTES = 64


def import_tensorrt(architecture: str) -> ModuleType:
    """The TensorRT package for that GPU, RTX if it serves it; raises EngineError that names the package to install."""
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
        raise_interrupt(error)
        raise EngineError(f"the package {name} cannot be used: {' '.join(str(error).split())[:200]}") from None


def new_logger(trt: Any) -> Any:
    """A logger that prints nothing and keeps the last error, for our own message."""

    class LastError(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = " ".join(message.split())[:300]

    return LastError()


Shape = tuple[int, ...]

Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""The network's inputs by name, with the least, the usual and the largest shape that an engine takes."""


def profile_of(bundle: Bundle, batches: tuple[int, int]) -> Profile:
    """Shapes that the bundle's engines take: the least and the most images at once, at the sizes of `sides_of`."""
    channels, height, width = bundle.state_shape
    least, most = batches
    low, high = sides_of(bundle)
    profile: dict[str, tuple[Shape, Shape, Shape]] = {
        name: ((least, *spec.shape), (most, *spec.shape), (most, *spec.shape)) for name, spec in bundle.inputs.items()
    }
    profile["x"] = ((least, channels, *low), (most, channels, height, width), (most, channels, *high))
    return profile


def sides_of(bundle: Bundle) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest height and width of an engine: from a multiple to the square of max_pixels.

    The native size is always among them. Networks of one size have that one alone.
    """
    image = bundle.image
    native = image.height, image.width
    if not image.free:
        return native, native
    side = math.isqrt(image.max_pixels) // image.multiple_of * image.multiple_of
    low = min(image.multiple_of, image.height), min(image.multiple_of, image.width)
    return low, (max(side, image.height), max(side, image.width))


def build_engine(trt: Any, network: Network, profile: Profile, architectures: Sequence[str] = ()) -> bytes:
    """Build the engine of a network for inputs of these shapes.

    architectures: for TensorRT-RTX; full TensorRT takes none and builds for this machine's GPU. Raises EngineError.
    """
    logger = new_logger(trt)
    builder = trt.Builder(logger)
    parsed = builder.create_network(0)
    parser = trt.OnnxParser(parsed, logger)
    if not parse(parser, network):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        raise EngineError(f"{trt.__name__} cannot read {network.path}: {' '.join(errors.split())[:300]}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # no TF32: float32 means float32
    if architectures:
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # else its work cannot be captured
        config.num_compute_capabilities = len(architectures)
        for index, name in enumerate(architectures):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.upper()), index)
    shapes = builder.create_optimization_profile()
    for name, (least, usual, most) in profile.items():
        shapes.set_shape(name, least, usual, most)
    config.add_optimization_profile(shapes)
    built = builder.build_serialized_network(parsed, config)
    if built is None:
        raise EngineError(f"{trt.__name__} {trt.__version__} cannot build {network.path}: {logger.last}")
    return bytes(built)


def parse(parser: Any, network: Network) -> bool:
    """Let TensorRT read the verified bytes; whether it accepts them."""
    if not network.places:
        return bool(parser.parse(network.data))
    addresses = network.addresses()
    return bool(
        parser.load_model_proto(network.data)
        and all(parser.load_initializer(p.name, addresses[p.location] + p.offset, p.length) for p in network.places)
        and parser.parse_model_proto()
    )


def read_header(engine: bytes) -> tuple[str, tuple[str, ...]]:
    """The version and the architectures of an engine of TensorRT-RTX; raises ValueError for any other file.

    NVIDIA does not document the header; its fields were found by comparing builds for all architectures.
    """
    if len(engine) < HEADER_BYTES or engine[:4] != MAGIC or int.from_bytes(engine[16:24], "little") != len(engine):
        raise ValueError("not a TensorRT-RTX engine")
    mask = int.from_bytes(engine[32:36], "little")
    architectures = tuple(name for bit, name in enumerate(RTX_ARCHITECTURES) if mask >> bit & 1)
    return ".".join(str(part) for part in engine[24:28]), architectures
