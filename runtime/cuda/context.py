"""One GPU and one stream on it, through cuda.core: memory, kernels, graphs. CUDA's errors become EngineErrors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdedit.errors import DeviceLostError, EngineError, reason

from .driver import probe

SCALARS = {"i32": np.int32}
"""numpy's types of the kernels' scalar parameters. Python's own numbers would become 8 bytes, whatever the type."""

SCRATCH = ("global_scratch", "profile_scratch")
"""Pointers that the compiler appends to a kernel's parameters; export sees to it that they are not used."""

OUT_OF_MEMORY = "OUT_OF_MEMORY"
"""Words in cuda.core's message of the one error that a device survives."""

CLOSED = "it was closed"


class OutOfMemory(EngineError):  # noqa: N818 - named after the event
    """An allocation on the device failed. free: bytes that the device has left."""

    def __init__(self, name: str, asked: int, free: int) -> None:
        super().__init__(f"{name} is out of memory: {asked / 1e6:.1f} MB asked for, {free / 1e6:.1f} MB are free")
        self.free = free


class Parameter(Protocol):
    """A kernel's parameter: see bundle.kernels.Parameter."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def divisible(self) -> bool: ...


class CompiledKernel(Protocol):
    """A kernel as its bundle describes it: see bundle.kernels.Kernel."""

    @property
    def entry(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def parameters(self) -> Sequence[Parameter]: ...


@dataclass(frozen=True)
class GpuKernel:
    """A loaded kernel, its description in the bundle, and the file that it came from."""

    function: Any
    parameters: Sequence[Parameter]
    divisible_by: int
    threads: int
    file: str


class Gpu:
    """One GPU. Calls may come from any thread, one at a time. After a failure of the device, every call is refused.

    It owns the memory that it allocates, and frees it when it is closed.
    """

    def __init__(self, index: int = 0) -> None:
        """Raises EngineError if there is no usable driver, or no GPU of that number."""
        self.driver = probe(index)
        import cuda.core

        self._core = cuda.core
        self.index = index
        self._builder: Any = None
        self._owned: list[Any] = []
        self.lost: str | None = None
        self.name = f"GPU {index}"
        with self.calls("to start"):
            device = cuda.core.Device(index)
            self.name = str(device.name)
            self.capability = (int(device.compute_capability[0]), int(device.compute_capability[1]))
            self._stream = device.create_stream()
            self._pinned = cuda.core.LegacyPinnedMemoryResource()
        self.stream = int(self._stream.handle)

    @contextmanager
    def calls(self, doing: str) -> Iterator[None]:
        """Wrap all calls of cuda.core: make the GPU current for this thread, and turn errors into EngineErrors.

        An error after which the GPU does nothing more is a DeviceLostError.
        """
        if self.lost is not None:
            raise DeviceLostError(f"{self.name} is lost, {self.lost}: open another editor")
        try:
            self._core.Device(self.index).set_current()
            yield
        except DeviceLostError:
            raise
        except EngineError as error:
            if (failure := self._failure()) is None:
                raise
            self.lost = f"it failed {doing}: {failure}"
            raise DeviceLostError(f"{self.name} failed {doing}: {failure}; {error}") from None
        except Exception as error:  # cuda.core raises CUDAError, RuntimeError and others
            self.lost = f"it failed {doing}: {reason(error)}"
            raise DeviceLostError(f"{self.name} failed {doing}: {reason(error)}") from None

    def _failure(self) -> str | None:
        """Why the device does nothing more; None if it works. An engine whose call failed does not say which it is."""
        try:
            self._stream.sync()
        except Exception as error:  # errors of a device stay
            return reason(error)
        return None

    # Memory. Copies are in the order of the stream; pinned memory must stay as it is until they are done.

    def allocate(self, nbytes: int) -> Any:
        """Zeroed memory on the device; raises OutOfMemory."""
        try:
            buffer = self._core.Device(self.index).allocate(nbytes, stream=self._stream)
        except Exception as error:  # cuda.core's CUDAError is not public
            if OUT_OF_MEMORY in str(error):
                raise OutOfMemory(self.name, nbytes, self.free_memory()) from None
            raise
        self._owned.append(buffer)
        buffer.fill(0, stream=self._stream)
        return buffer

    def allocate_pinned(self, nbytes: int) -> tuple[Any, np.ndarray]:
        """Page-locked memory of the host that the device copies from and to, as a buffer and as bytes.

        Raises EngineError; the device survives.
        """
        try:
            buffer = self._pinned.allocate(nbytes)
        except Exception as error:  # cuda.core raises CUDAError and MemoryError
            size = f"{nbytes / 1e6:.1f} MB of page-locked memory"
            raise EngineError(f"the host cannot give {self.name} {size}: {reason(error)}") from None
        self._owned.append(buffer)
        return buffer, np.from_dlpack(buffer).view(np.uint8)

    def free_memory(self) -> int:
        """Bytes that allocations can still get: those of the device, and those that its pool keeps for them."""
        from cuda.bindings import driver

        _, free, _ = driver.cuMemGetInfo()
        pool = getattr(self._core.Device(self.index).memory_resource, "attributes", None)
        kept = 0 if pool is None else int(pool.reserved_mem_current) - int(pool.used_mem_current)
        return int(free) + kept

    def copy(self, to: Any, to_offset: int, source: Any, source_offset: int, nbytes: int) -> None:
        """Enqueue a copy of bytes between two buffers, on the device or on the host."""
        self.copy_addresses(int(to.handle) + to_offset, int(source.handle) + source_offset, nbytes)

    def copy_addresses(self, to: int, source: int, nbytes: int) -> None:
        """Enqueue, or capture, a copy of bytes between two addresses."""
        part = self._core.Buffer.from_handle
        part(to, nbytes).copy_from(part(source, nbytes), stream=self._builder or self._stream)

    def record(self, event: Any = None) -> Any:
        """Record an event after all work that was enqueued; reuses the given one."""
        return self._stream.record(event)

    def wait(self) -> None:
        self._stream.sync()

    # Kernels.

    def load(self, name: str, entry: CompiledKernel, file: str, data: bytes, divisible_by: int) -> GpuKernel:
        """A kernel from its cubin or PTX. Raises EngineError unless it takes the parameters that its manifest lists."""
        code = self._core.ObjectCode
        module = (code.from_ptx if file.endswith(".ptx") else code.from_cubin)(data, name=name)
        function = module.get_kernel(entry.entry)
        found = [(p.offset, p.size) for p in function.arguments_info]
        listed = [(p.offset, p.size) for p in entry.parameters]
        if found != listed:
            raise EngineError(f"GPU kernel {file} takes parameters at {found}, its manifest says {listed}")
        return GpuKernel(function, entry.parameters, divisible_by, entry.threads, file)

    def launch(self, kernel: GpuKernel, grid: tuple[int, int, int], arguments: Mapping[str, Any]) -> None:
        """Enqueue, or capture, a kernel. arguments: buffers and integers by the parameters' names, none left over."""
        known = {**dict.fromkeys(SCRATCH), **arguments}
        names = [p.name for p in kernel.parameters]
        if set(names) != set(known):
            raise EngineError(f"GPU kernel {kernel.file} takes {', '.join(names)}, not {', '.join(known)}")
        values = [typed(kernel, p, known[p.name]) for p in kernel.parameters]
        config = self._core.LaunchConfig(grid=grid, block=kernel.threads)
        self._core.launch(self._builder or self._stream, config, kernel.function, *values)

    # Graphs.

    def capture(self, enqueue: Callable[[], None]) -> Any:
        """Record the work that `enqueue` enqueues as a graph, ready on the device; nothing runs."""
        builder = self._stream.create_graph_builder().begin_building("thread_local")
        self._builder = builder
        try:
            enqueue()
        except BaseException:
            with suppress(Exception):  # the first error tells more than the failure of the capture
                builder.end_building()
            raise
        finally:
            self._builder = None
        graph = builder.end_building().complete()
        builder.close()
        graph.upload(self._stream)
        return graph

    def replay(self, graph: Any) -> None:
        graph.launch(self._stream)

    def free(self, *resources: Any) -> None:
        """Wait, then free graphs and memory of this GPU; a device that is lost keeps nothing anyway."""
        if self.lost == CLOSED:
            return  # `close` has freed them
        with suppress(Exception):
            self._core.Device(self.index).set_current()
            self._stream.sync()
        for resource in resources:
            with suppress(Exception):
                resource.close()
        freed = set(map(id, resources))
        self._owned = [resource for resource in self._owned if id(resource) not in freed]

    def close(self) -> None:
        """Wait, then free all memory and the stream."""
        if self.lost == CLOSED:
            return
        self.free(*self._owned)
        with suppress(Exception):
            self._stream.sync()
        with suppress(Exception):  # a context that is lost here has nothing to free
            self._stream.close()
        self.lost = CLOSED


def typed(kernel: GpuKernel, parameter: Parameter, value: Any) -> Any:
    """A value in the parameter's type. Raises EngineError unless the kernel was compiled for the type and the value."""
    kind, name = parameter.type, parameter.name
    packed: Any
    if kind.startswith("*"):
        packed = np.uint64(0 if value is None else int(value.handle))
    elif kind in SCALARS:
        packed = SCALARS[kind](value)
    else:
        raise EngineError(f"GPU kernel {kernel.file} takes a {kind}, {name}; this version passes {', '.join(SCALARS)}")
    if parameter.divisible and int(packed) % kernel.divisible_by:
        raise EngineError(f"GPU kernel {kernel.file}: {name} is {int(packed)}, no multiple of {kernel.divisible_by}")
    return packed
