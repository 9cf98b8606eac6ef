"""The network on TensorRT for the CUDA device: an engine of the bundle, or one built here at first use and remembered.

TensorRT-RTX and full TensorRT share this module. It tells them apart by the names that only RTX has.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle, network_inputs
from ..bundle.engines import FOLDER, StoredEngine, network_of, read_engines
from ..bundle.parts import extend_command
from ..cache import read_cached, write_cached
from .base import DeviceArray, Enqueue, check_signature
from .tensorrt_build import RTX, build_engine, import_tensorrt, profile_of, read_header
from .tensorrt_context import Context

if TYPE_CHECKING:
    from ..cuda import Gpu


class TensorRtEngine:
    """Implements engines.CudaEngine. A context for each shape of states, on our memory, runs one batch after another.

    Graphs and contexts of the native shape stay; those of another shape are freed with its arrays.
    """

    name = "tensorrt"
    threads: int | None = None

    def __init__(self, bundle: Bundle, gpu: "Gpu", precision: str, slots: int) -> None:
        """Raises EngineError if there is no TensorRT for the GPU, or it refuses the engine or the network."""
        self._gpu, self._bundle = gpu, bundle
        self._engine: Any = None
        self._contexts: dict[tuple[int, ...], Context] = {}
        self.precision = precision
        architecture = f"sm{gpu.capability[0]}{gpu.capability[1]}"
        self._trt = import_tensorrt(architecture)
        self.version = f"{self._trt.__name__} {self._trt.__version__}"
        data, (least, most) = find_engine(self._trt, bundle, architecture, precision, slots)
        self.batch = largest_batch(slots, least, most)
        try:
            with gpu.calls("to load the engine"):
                self._engine = self._deserialize(data)
                check_signature(bundle, signature(self._trt, self._engine))
                least_x, _, most_x = self._engine.get_tensor_profile_shape("x", 0)
            self._least, self._most = tuple(least_x)[2:], tuple(most_x)[2:]
            self.capturable = self._context_for(bundle.state_shape).capturable
        except BaseException:
            self.close()
            raise

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine."""
        context = self._context_for(out.shape[1:])
        with self._gpu.calls("to load the engine"):
            return context.bind(inputs, out)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Implements engines.CudaEngine: the engine was built for sides in a range."""
        sides = shape[1:]
        if all(low <= side <= high for low, side, high in zip(self._least, sides, self._most, strict=True)):
            return
        least, asked, most = ("x".join(map(str, size)) for size in (self._least, sides, self._most))
        raise EngineError(
            f"the TensorRT engine takes sizes from {least} to {most}, not {asked}: "
            "choose another size, engine onnxruntime, or device cpu"
        )

    def forget(self, shape: tuple[int, ...]) -> None:
        """Implements engines.CudaEngine."""
        context = self._contexts.pop(shape, None)
        if context is not None:
            context.close()

    def close(self) -> None:
        """Free its memory on the GPU."""
        for shape in list(self._contexts):
            self.forget(shape)
        self._engine = None

    def _deserialize(self, data: bytes) -> Any:
        from .tensorrt_build import new_logger

        self._logger = new_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:  # it does not raise
            raise EngineError(f"{self.version} refuses the engine: {self._logger.last}")
        return engine

    def _context_for(self, shape: tuple[int, ...]) -> Context:
        """The context for states of that shape, made if there is none."""
        if shape not in self._contexts:
            channels, height, width = shape
            specs = network_inputs((channels, height, width), self._bundle.classes)
            shapes = {name: (self.batch, *spec.shape) for name, spec in specs.items()}
            key = f"{self._bundle.sha256}-{self.version}-{self.precision}-{self._gpu.name}"
            if shape != self._bundle.state_shape:
                key += f"-{height}x{width}"
            with self._gpu.calls("to load the engine"):
                rest = self._gpu, shapes, self.version, self._logger, key
                self._contexts[shape] = Context(self._trt, self._engine, *rest)
        return self._contexts[shape]


def find_engine(
    trt: Any, bundle: Bundle, architecture: str, precision: str, slots: int
) -> tuple[bytes, tuple[int, int]]:
    """An engine for that GPU and precision, of the bundle or built here, and the least and most images of its batch."""
    entries = read_engines(bundle)
    for entry in entries:
        if entry.precision == precision and entry.package == trt.__name__ and fits(entry, trt, architecture):
            data = bundle.read(f"{FOLDER}/{entry.file}")
            check_header(bundle, entry, data)
            return data, (entry.batches[0], entry.batches[1])
    network = network_of(bundle, entries, precision)
    if network is None:
        option = "--int8" if precision == "int8" else f"--tensorrt {architecture}"
        raise EngineError(
            f"bundle {bundle.path} has no network of precision {precision}: {extend_command(bundle, option)}"
        )
    return build_here(trt, bundle, network, architecture, precision), (1, 1)


def fits(entry: StoredEngine, trt: Any, architecture: str) -> bool:
    """Whether an engine runs here: only the version that built it runs it, on the architectures it was built for."""
    return entry.version == trt.__version__ and architecture in entry.architectures


def check_header(bundle: Bundle, entry: StoredEngine, data: bytes) -> None:
    """Raise EngineError if an engine of TensorRT-RTX is for another version or GPU than its manifest says."""
    if entry.package != RTX:
        return
    listed = (entry.version, tuple(sorted(entry.architectures)))
    try:
        version, architectures = read_header(data)
    except ValueError as error:
        raise EngineError(f"bundle {bundle.path}: {entry.file}: {error}") from None
    if (version, tuple(sorted(architectures))) != listed:
        raise EngineError(f"bundle {bundle.path}: {entry.file} is for {version} {architectures}, not {listed}")


def build_here(trt: Any, bundle: Bundle, network: str, architecture: str, precision: str) -> bytes:
    """The engine for this machine's GPU, built once and then remembered in the user's cache directory."""
    profile = profile_of(bundle, (1, 1))
    key = {
        "network": bundle.manifest.files[network].sha256,
        "precision": precision,
        "profile": profile,
        "architecture": architecture,
        "tensorrt": [trt.__name__, trt.__version__],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()
    file = f"tensorrt-{digest[:32]}.engine"
    stored = read_cached(file)
    if stored is not None:
        return stored
    warnings.warn(
        f"sdedit: {trt.__name__} builds the {precision} engine for {architecture} and puts it into the cache",
        RuntimeWarning,
        stacklevel=2,
    )
    architectures = (architecture,) if trt.__name__ == RTX else ()
    data = build_engine(trt, bundle.read_network(network), profile, architectures)
    write_cached(file, data)
    return data


def largest_batch(slots: int, least: int, most: int) -> int:
    """The most images at once that the engine takes and that divide the slots; raises EngineError if none do."""
    fitting = [batch for batch in range(least, most + 1) if slots % batch == 0]
    if not fitting:
        raise EngineError(f"slots {slots} is no multiple of the engine's batches, {least}..{most}")
    return fitting[-1]


def signature(trt: Any, engine: Any) -> dict[str, tuple[np.dtype | None, list[Any]]]:
    """The network's inputs and outputs for check_signature."""
    found = {}
    dtypes: dict[Any, np.dtype] = {trt.DataType.FLOAT: np.dtype(np.float32), trt.DataType.INT64: np.dtype(np.int64)}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = [size if size >= 0 else "free" for size in engine.get_tensor_shape(name)]
        found[name] = (dtypes.get(engine.get_tensor_dtype(name)), sizes)
    return found
