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

from ..bundle import Bundle
from ..bundle.engines import FOLDER, StoredEngine, network_of, read_engines
from ..bundle.parts import extend_command
from ..cache import read_cached, write_cached
from .base import OUT, DeviceArray, Enqueue, check_signature
from .tensorrt_build import RTX, build_engine, import_tensorrt, read_header

if TYPE_CHECKING:
    from ..cuda import Gpu


class TensorRtEngine:
    """Implements engines.CudaEngine. One context, on our memory, runs one batch after another."""

    name = "tensorrt"
    threads: int | None = None

    def __init__(self, bundle: Bundle, gpu: "Gpu", precision: str, slots: int) -> None:
        """Raises EngineError if there is no TensorRT for the GPU, or it refuses the engine or the network."""
        self._gpu = gpu
        self._engine: Any = None
        self._context: Any = None
        self._memory: Any = None
        self.precision = precision
        architecture = f"sm{gpu.capability[0]}{gpu.capability[1]}"
        trt = import_tensorrt(architecture)
        self.version = f"{trt.__name__} {trt.__version__}"
        data, (least, most) = find_engine(trt, bundle, architecture, precision, slots)
        self.batch = largest_batch(slots, least, most)
        try:
            with gpu.calls("to load the engine"):
                self._engine = self._deserialize(trt, data)
                check_signature(bundle, signature(trt, self._engine))
                self._open_context(trt, bundle)
        except BaseException:
            self.close()
            raise

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine."""
        addresses = {name: array.address for name, array in {**inputs, OUT: out}.items()}

        def enqueue(stream: int) -> None:
            accepted = [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
            if not all(accepted) or not self._context.execute_async_v3(stream):
                raise EngineError(f"{self.version} failed in mid-edit: {self._logger.last}")

        return enqueue

    def close(self) -> None:
        """Free its memory on the GPU."""
        self._context = self._engine = None
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()

    def _deserialize(self, trt: Any, data: bytes) -> Any:
        from .tensorrt_build import new_logger

        self._logger = new_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:  # it does not raise
            raise EngineError(f"{self.version} refuses the engine: {self._logger.last}")
        return engine

    def _open_context(self, trt: Any, bundle: Bundle) -> None:
        """Make the context for our batch, with its memory; RTX compiles its kernels here and caches them."""
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = None
        if hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the graph is ours
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            cache = KernelCache(config, f"{bundle.sha256}-{self.version}-{self.precision}-{self._gpu.name}")
        self._context = self._engine.create_execution_context(config)
        if self._context is None:
            raise EngineError(f"{self.version} cannot run the engine: {self._logger.last}")
        self._context.set_optimization_profile_async(0, self._gpu.stream)
        shapes = {name: (self.batch, *spec.shape) for name, spec in bundle.inputs.items()}
        if not all(self._context.set_input_shape(name, shape) for name, shape in shapes.items()):
            raise EngineError(f"{self.version}: the engine does not take {shapes}: {self._logger.last}")
        nbytes = int(self._context.update_device_memory_size_for_shapes())
        self._memory = self._gpu.allocate(nbytes) if nbytes else None
        if self._memory is not None:
            self._context.set_device_memory(int(self._memory.handle), nbytes)
        self._gpu.wait()
        asked = getattr(self._context, "is_stream_capturable", None)
        self.capturable = True if asked is None else bool(asked(self._gpu.stream))
        if cache is not None:
            cache.save()


class KernelCache:
    """Kernels that TensorRT-RTX compiled for this GPU, kept between processes. TensorRT-RTX checks them itself."""

    def __init__(self, config: Any, key: str) -> None:
        self._file = f"tensorrt-{hashlib.sha256(key.encode()).hexdigest()[:32]}.cache"
        self._cache = config.create_runtime_cache()
        stored = read_cached(self._file)
        if stored is not None:
            self._cache.deserialize(stored)
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        write_cached(self._file, bytes(self._cache.serialize()))


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
    network = network_of(entries, precision)
    if network is None:
        raise EngineError(
            f"bundle {bundle.path} has no network of precision {precision}: "
            f"{extend_command(bundle, f'--tensorrt {architecture}')}"
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
    key = {
        "network": bundle.manifest.files[network].sha256,
        "precision": precision,
        "shape": bundle.state_shape,
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
    data = build_engine(trt, bundle.read_network(network), bundle.state_shape, (1, 1), architectures)
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
