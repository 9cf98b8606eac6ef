"""Execution contexts of a TensorRT engine: one for each shape of states, on our memory and our stream."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdedit.errors import EngineError

from ..cache import read_cached, write_cached
from .base import OUT, DeviceArray, Enqueue

if TYPE_CHECKING:
    from ..cuda import Gpu

ALIGNMENT = 256
"""Alignment in bytes of the tensors that an engine is given; that of whole allocations."""


class Context:
    """An engine for states of one shape. version, logger: for the errors' lines. capturable: into a CUDA graph."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        gpu: "Gpu",
        shapes: Mapping[str, tuple[int, ...]],
        version: str,
        logger: Any,
        cache_key: str,
    ) -> None:
        """shapes: of the inputs by name. RTX compiles its kernels here and caches them. Raises EngineError."""
        self._gpu, self._version, self._logger = gpu, version, logger
        self._memory: list[Any] = []
        self._aligned: dict[str, DeviceArray] = {}
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = None
        if hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the graph is ours
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            cache = KernelCache(config, cache_key)
        self._context = engine.create_execution_context(config)
        if self._context is None:
            raise EngineError(f"{version} cannot run the engine: {logger.last}")
        self._context.set_optimization_profile_async(0, gpu.stream)
        if not all(self._context.set_input_shape(name, shape) for name, shape in shapes.items()):
            raise EngineError(f"{version}: the engine does not take {dict(shapes)}: {logger.last}")
        nbytes = int(self._context.update_device_memory_size_for_shapes())
        if nbytes:
            self._context.set_device_memory(self._allocate(nbytes), nbytes)
        gpu.wait()
        asked = getattr(self._context, "is_stream_capturable", None)
        self.capturable = True if asked is None else bool(asked(gpu.stream))
        if cache is not None:
            cache.save()

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """See engines.CudaEngine. Arrays that are not aligned are copied to memory that is, and back."""
        given = {**inputs, OUT: out}
        used = {name: self._aligned_for(name, array) for name, array in given.items()}
        moved = [name for name in given if used[name] is not given[name]]

        def enqueue(stream: int) -> None:
            for name in moved:
                if name != OUT:
                    self._gpu.copy_addresses(used[name].address, given[name].address, given[name].nbytes)
            accepted = [self._context.set_tensor_address(name, array.address) for name, array in used.items()]
            if not all(accepted) or not self._context.execute_async_v3(stream):
                raise EngineError(f"{self._version} failed in mid-edit: {self._logger.last}")
            if OUT in moved:
                self._gpu.copy_addresses(out.address, used[OUT].address, out.nbytes)

        return enqueue

    def close(self) -> None:
        """Free its memory on the GPU."""
        self._context = None
        self._gpu.free(*self._memory)
        self._memory = []

    def _aligned_for(self, name: str, array: DeviceArray) -> DeviceArray:
        """The array itself, or memory for its values; evaluations follow each other, so all arrays share it."""
        if array.address % ALIGNMENT == 0:
            return array
        if name not in self._aligned:
            self._aligned[name] = DeviceArray(self._allocate(array.nbytes), array.shape, array.dtype)
        return self._aligned[name]

    def _allocate(self, nbytes: int) -> int:
        memory = self._gpu.allocate(nbytes)
        self._memory.append(memory)
        return int(memory.handle)


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
