"""The network on TensorRT, for the CUDA device: an engine of the bundle, or one built here at first use and kept.

TensorRT-RTX and full TensorRT are one module here; where they differ, the names that only RTX has are asked for.
"""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from ..bundle.engines import FOLDER, StoredEngine, network_of, read_engines
from ..cache import cache_folder
from .base import OUT, DeviceArray, Enqueue, check_signature
from .tensorrt_build import RTX, build_engine, import_tensorrt, read_header

if TYPE_CHECKING:
    from ..cuda import Gpu


class TensorRtEngine:
    """See engines.CudaEngine. One context, on memory that is ours; it runs one batch after another."""

    name = "tensorrt"
    threads: int | None = None

    def __init__(self, bundle: Bundle, gpu: "Gpu", precision: str, slots: int) -> None:
        """Raises EngineError where there is no TensorRT for the GPU, or it refuses the engine or the network."""
        self._gpu = gpu
        self.precision = precision
        architecture = f"sm{gpu.capability[0]}{gpu.capability[1]}"
        trt = import_tensorrt(architecture)
        self.version = f"{trt.__name__} {trt.__version__}"
        data, (least, most) = find_engine(trt, bundle, architecture, precision, slots)
        self.batch = largest_batch(slots, least, most)
        with gpu.calls("to load the engine"):
            self._engine = self._deserialize(trt, data)
            check_signature(bundle, described(trt, self._engine))
            self._open_context(trt, bundle)

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """See engines.CudaEngine."""
        addresses = {name: array.address for name, array in {**inputs, OUT: out}.items()}

        def enqueue(stream: int) -> None:
            told = [self._context.set_tensor_address(name, address) for name, address in addresses.items()]
            if not all(told) or not self._context.execute_async_v3(stream):
                raise EngineError(f"{self.version} failed in mid-edit: {self._logger.last}")

        return enqueue

    def close(self) -> None:
        """Let go of its memory."""
        del self._context, self._engine
        if self._memory is not None:
            self._memory.close()

    def _deserialize(self, trt: Any, data: bytes) -> Any:
        from .tensorrt_build import new_logger

        self._logger = new_logger(trt)
        self._runtime = trt.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:  # it does not raise
            raise EngineError(f"{self.version} refuses the engine: {self._logger.last}")
        return engine

    def _open_context(self, trt: Any, bundle: Bundle) -> None:
        """A context for our batch, with its memory; RTX compiles its kernels here, and remembers them in a cache."""
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
    """What TensorRT-RTX compiled for this GPU, kept between processes. It checks itself what it is given."""

    def __init__(self, config: Any, key: str) -> None:
        self._file = cache_folder() / f"tensorrt-{hashlib.sha256(key.encode()).hexdigest()[:32]}.cache"
        self._cache = config.create_runtime_cache()
        if self._file.is_file():
            self._cache.deserialize(self._file.read_bytes())
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        keep(self._file, bytes(self._cache.serialize()))


def find_engine(
    trt: Any, bundle: Bundle, architecture: str, precision: str, slots: int
) -> tuple[bytes, tuple[int, int]]:
    """An engine for that GPU and precision, and the batches that it takes: of the bundle, or built here."""
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
            f"sdedit extend {bundle.path} --tensorrt {architecture}"
        )
    return build_here(trt, bundle, network, architecture, precision), (1, 1)


def fits(entry: StoredEngine, trt: Any, architecture: str) -> bool:
    """Engines are for the very version that built them, and the architectures they were built for."""
    return entry.version == trt.__version__ and architecture in entry.architectures


def check_header(bundle: Bundle, entry: StoredEngine, data: bytes) -> None:
    """Raise EngineError where an engine of TensorRT-RTX is not what the manifest says."""
    if entry.package != RTX:
        return
    said = (entry.version, tuple(sorted(entry.architectures)))
    try:
        version, architectures = read_header(data)
    except ValueError as error:
        raise EngineError(f"bundle {bundle.path}: {entry.file}: {error}") from None
    if (version, tuple(sorted(architectures))) != said:
        raise EngineError(f"bundle {bundle.path}: {entry.file} is for {version} {architectures}, not {said}")


def build_here(trt: Any, bundle: Bundle, network: str, architecture: str, precision: str) -> bytes:
    """Build the engine for the GPU that is here, once: it is kept in the user's cache directory."""
    key = {
        "network": bundle.manifest.files[network].sha256,
        "precision": precision,
        "shape": bundle.state_shape,
        "architecture": architecture,
        "tensorrt": [trt.__name__, trt.__version__],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    file = cache_folder() / f"tensorrt-{digest[:32]}.engine"
    if file.is_file():
        return file.read_bytes()
    warnings.warn(
        f"sdedit: {trt.__name__} builds the {precision} engine for {architecture}, once; it is kept in {file}",
        RuntimeWarning,
        stacklevel=2,
    )
    architectures = (architecture,) if trt.__name__ == RTX else ()
    data = build_engine(trt, bundle.read_network(network), bundle.state_shape, (1, 1), architectures)
    keep(file, data)
    return data


def keep(file: Path, data: bytes) -> None:
    """Write a file of the cache, complete or not at all; a warning where that cannot be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as temporary:
            temporary.write(data)
        Path(temporary.name).replace(file)
    except OSError as error:
        warnings.warn(f"sdedit: {file} cannot be written: {reason(error)}", RuntimeWarning, stacklevel=2)


def largest_batch(slots: int, least: int, most: int) -> int:
    """Images at once: as many as the engine takes and slots are a multiple of; raises EngineError."""
    fitting = [batch for batch in range(least, most + 1) if slots % batch == 0]
    if not fitting:
        raise EngineError(f"slots {slots} is no multiple of the engine's batches, {least}..{most}")
    return fitting[-1]


def described(trt: Any, engine: Any) -> dict[str, tuple[np.dtype | None, list[Any]]]:
    """What check_signature asks for."""
    found = {}
    dtypes: dict[Any, np.dtype] = {trt.DataType.FLOAT: np.dtype(np.float32), trt.DataType.INT64: np.dtype(np.int64)}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        sizes = [size if size >= 0 else "free" for size in engine.get_tensor_shape(name)]
        found[name] = (dtypes.get(engine.get_tensor_dtype(name)), sizes)
    return found
