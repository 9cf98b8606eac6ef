"""The CUDA device: the state in static buffers; engine, step and advance captured once as a graph and replayed.

Values that change between steps lie in device memory: a captured graph holds addresses and nothing else. All work is
enqueued on one stream, in order. The host waits only to read a result, before it overwrites memory that is still to be
copied, and when it is AHEAD steps ahead. A snapshot is copied while the device goes on.
"""

import logging
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason
from sdedit.kernels.layout import busy_slots, state_arrays

from ..bundle import Bundle, read_kernels
from ..bundle.kernels import FOLDER, choose_binary
from ..cuda import Gpu, GpuKernel, OutOfMemory
from ..engines import CudaEngine, DeviceArray, Enqueue
from ..plan import MAX_ROWS

UNUSED = ("o_uncond",)
"""Arrays of the layout that networks without guidance do not need."""

KERNELS = ("begin", "step", "step_begin_noise", "advance")

PLACE = 256
"""Alignment in bytes of the parts of the staging memory."""

AHEAD = 2
"""Steps that may be enqueued and not done, so that the GPU need not wait for the host. A cancelled job ends that much
later."""

MAX_GRAPHS = 32
"""Graphs kept at once. Each set of slots that is busy together needs up to two."""

LOG = logging.getLogger("sdedit")


@dataclass(frozen=True)
class GraphKey:
    """Everything that shapes a graph: the groups of slots that the engine runs, and the step kernel.

    Buffers never move, so that addresses do not matter.
    """

    groups: tuple[int, ...]
    step: str


class CudaDevice:
    """Implements loop.Device. Slots form groups of the engine's batch; the engine runs the groups with a busy slot.

    eager: run the same calls without capturing them. captures: number of graphs made so far.
    """

    name = "cuda"
    runs_ahead = True

    def __init__(
        self,
        gpu: Gpu,
        bundle: Bundle,
        engine: CudaEngine,
        slots: int,
        eager: bool = False,
    ) -> None:
        """Raises EngineError if the bundle has no kernels for the GPU, or the slots do not fit into memory.

        The GPU is then closed.
        """
        check_slots(slots, engine)
        self.engine = engine
        self.slots = slots
        self.eager = eager or not engine.capturable
        self.captures = 0
        self._gpu = gpu
        self._shape = bundle.state_shape
        self.state_shape: tuple[int, ...] = bundle.state_shape
        self._arrays = {k: v for k, v in state_arrays(slots, MAX_ROWS, bundle.state_shape).items() if k not in UNUSED}
        self._counter, self._row_count = np.zeros((2, slots), np.uint32)
        self._begin_noise = np.zeros(slots, bool)
        self._graphs: OrderedDict[GraphKey, Any] = OrderedDict()
        self._done: deque[Any] = deque()
        self._staged: list[Any] = [None] * slots
        try:
            with gpu.calls("to load the kernels"):
                self._kernels, self._elements = load_kernels(gpu, bundle)
            self.kernels = f"triton {self._kernels['step'].file.split('.', 1)[1]}"
            with gpu.calls("to allocate"):
                self._buffers = self._allocate()
                self._staging = [gpu.allocate_pinned(self._staging_bytes()) for _ in range(slots)]
                self._landing = gpu.allocate_pinned(self._largest_bytes())
                self._snapshots = [gpu.allocate_pinned(self._largest_bytes()) for _ in range(slots)]
            self._evaluate = self._bind()
        except BaseException:
            gpu.close()
            raise

    # Device.

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        parts = {name: self._checked(name, value) for name, value in values.items()}
        with self._gpu.calls("in a copy to it"):
            if self._staged[slot] is not None:
                self._staged[slot].sync()
            buffer, host = self._staging[slot]
            at = 0
            for name, part in parts.items():
                host[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
                self._gpu.copy(self._buffers[name], slot * self._slot_bytes(name), buffer, at, part.nbytes)
                at += -(-part.nbytes // PLACE) * PLACE
            self._staged[slot] = self._gpu.record(self._staged[slot])
        self._note(slot, parts)

    def read(self, slot: int, name: str) -> np.ndarray:
        shape, dtype = self._arrays[name]
        nbytes = self._slot_bytes(name)
        with self._gpu.calls("in mid-edit"):
            buffer, host = self._landing
            self._gpu.copy(buffer, 0, self._buffers[name], slot * nbytes, nbytes)
            self._gpu.wait()
            return host[:nbytes].view(dtype).reshape(shape[1:]).copy()

    def snapshot(self, slot: int, name: str) -> Callable[[], np.ndarray]:
        shape, dtype = self._arrays[name]
        nbytes = self._slot_bytes(name)
        with self._gpu.calls("in mid-edit"):
            memory = self._snapshots.pop() if self._snapshots else self._gpu.allocate_pinned(self._largest_bytes())
            buffer, host = memory
            self._gpu.copy(buffer, 0, self._buffers[name], slot * nbytes, nbytes)
            copied = self._gpu.record()

        def fetch() -> np.ndarray:
            with self._gpu.calls("in mid-edit"):
                copied.sync()
            return host[:nbytes].view(dtype).reshape(shape[1:]).copy()

        weakref.finalize(fetch, self._snapshots.append, memory)  # fetched or not, the next snapshot may use it
        return fetch

    def release(self, slot: int) -> None:
        with suppress(EngineError):  # a lost device runs nothing any more
            self.write(slot, {"row_count": np.uint32(0)})

    def begin(self) -> None:
        with self._gpu.calls("in mid-edit"):
            self._launch("begin", self._grid())

    def step(self) -> None:
        busy = busy_slots(self._counter, self._row_count)
        if not busy:
            return
        with self._gpu.calls("in mid-edit"):
            reused = self._wait_for_room()
            self._run(self._key(busy))
            self._done.append(self._gpu.record(reused))
        self._counter[busy] += 1

    def check_shape(self, shape: tuple[int, ...], tile: int | None) -> None:
        if shape != self.state_shape or tile is not None:
            _, height, width = self.state_shape
            raise EngineError(
                f"device cuda edits at the native size only, {height}x{width}, not at {shape[1]}x{shape[2]} or in "
                "tiles: choose size native, or device cpu"
            )

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "CudaDevice":
        self.check_shape(shape, tile)
        return self

    def close(self) -> None:
        """Free everything on the GPU; afterwards every call raises EngineError. An engine's failure is only logged."""
        if not self._kernels:
            return
        graphs = list(self._graphs.values())
        self._evaluate, self._kernels = {}, {}
        self._graphs, self._done, self._staged, self._snapshots = OrderedDict(), deque(), [], []
        try:
            self.engine.close()
        except Exception as error:  # engines' errors share no base class
            LOG.warning("engine %s failed to close: %s", self.engine.name, reason(error))
        finally:
            self._gpu.close(*graphs)

    # A step.

    def _run(self, key: GraphKey) -> None:
        if self.eager:
            self._enqueue(key)
            return
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self._gpu.replay(self._graphs[key])
            return
        self._enqueue(key)  # this step; an engine's first run may do things that cannot be captured
        self._gpu.wait()
        self._drop_oldest_graph()
        self._graphs[key] = self._gpu.capture(lambda: self._enqueue(key))
        self.captures += 1

    def _enqueue(self, key: GraphKey) -> None:
        for group in key.groups:
            self._evaluate[group](self._gpu.stream)
        self._launch(key.step, self._grid())
        self._launch("advance", (self.slots, 1, 1))

    def _key(self, busy: list[int]) -> GraphKey:
        groups = tuple(sorted({slot // self.engine.batch for slot in busy}))
        step = "step_begin_noise" if self._begin_noise[busy].any() else "step"
        return GraphKey(groups, step)

    def _drop_oldest_graph(self) -> None:
        """Make room for one more graph: drop the least recently used one. Nothing may be running."""
        if len(self._graphs) >= MAX_GRAPHS:
            _, graph = self._graphs.popitem(last=False)
            graph.close()

    def _wait_for_room(self) -> Any:
        """Wait until fewer than AHEAD steps are under way; returns the event of the step that is done, to reuse it."""
        if len(self._done) < AHEAD:
            return None
        event = self._done.popleft()
        event.sync()
        return event

    def _launch(self, name: str, grid: tuple[int, int, int]) -> None:
        kernel = self._kernels[name]
        known = self._arguments()
        wanted = {p.name for p in kernel.parameters}
        self._gpu.launch(kernel, grid, {k: v for k, v in known.items() if k in wanted})

    def _arguments(self) -> dict[str, Any]:
        """The arguments of all kernels by their parameters' names."""
        pointers = {f"p_{name}": buffer for name, buffer in self._buffers.items()}
        return {
            **pointers,
            "p_o_uncond": self._buffers["o"],  # not read by the kernels for one output
            "pixels": self._shape[1] * self._shape[2],
            "max_rows": MAX_ROWS,
        }

    def _grid(self) -> tuple[int, int, int]:
        channels, height, width = self._shape
        return channels, -(-height * width // self._elements), self.slots

    # Memory.

    def _allocate(self) -> dict[str, Any]:
        buffers: dict[str, Any] = {}
        try:
            for name in self._arrays:
                buffers[name] = self._gpu.allocate(self.slots * self._slot_bytes(name))
        except OutOfMemory as error:
            held = sum(self.slots * self._slot_bytes(name) for name in buffers)
            raise EngineError(self._too_large(error.free + held)) from None
        return buffers

    def _too_large(self, free: int) -> str:
        each = sum(self._slot_bytes(name) for name in self._arrays)
        image = "x".join(map(str, self._shape))
        return (
            f"{self._gpu.name} is out of memory: {self.slots} slots of {image} need {self.slots * each / 1e6:.1f} MB, "
            f"{free / 1e6:.1f} MB are free: {free // each} would fit"
        )

    def _bind(self) -> dict[int, Enqueue]:
        """Bind the engine to each group's part of the buffers."""
        batch = self.engine.batch
        return {
            group: self.engine.bind(
                {name: self._part(name, group * batch, batch) for name in ("x", "time")},
                self._part("o", group * batch, batch),
            )
            for group in range(self.slots // batch)
        }

    def _part(self, name: str, first: int, slots: int) -> DeviceArray:
        address = int(self._buffers[name].handle) + first * self._slot_bytes(name)
        return DeviceArray(address, (slots, *self._arrays[name][0][1:]))

    def _slot_bytes(self, name: str) -> int:
        shape, dtype = self._arrays[name]
        return prod(shape[1:]) * dtype.itemsize

    def _largest_bytes(self) -> int:
        """Size of the largest array of one slot."""
        return max(self._slot_bytes(name) for name in self._arrays)

    def _staging_bytes(self) -> int:
        """Size of all arrays of one slot, aligned."""
        return sum(-(-self._slot_bytes(name) // PLACE) * PLACE for name in self._arrays)

    def _checked(self, name: str, value: np.ndarray | np.generic) -> np.ndarray:
        """The value as a contiguous array. Raises ValueError unless it has the array's type and a slot's shape.

        Rows may be fewer.
        """
        shape, dtype = self._arrays[name]
        part = np.ascontiguousarray(value).reshape(np.shape(value))
        fits = part.shape == shape[1:] or (name == "rows" and part.ndim == 1 and part.size <= shape[1])
        if part.dtype != dtype or not fits:
            raise ValueError(f"{name} of a slot is {dtype} {list(shape[1:])}, got {part.dtype} {list(part.shape)}")
        return part

    def _note(self, slot: int, parts: Mapping[str, np.ndarray]) -> None:
        """Note on the host whether a slot is busy, and whether its plan uses the begin noise."""
        if "counter" in parts:
            self._counter[slot] = parts["counter"]
        if "row_count" in parts:
            self._row_count[slot] = parts["row_count"]
        if "rows" in parts:
            self._begin_noise[slot] = parts["rows"]["keep_noise"].any()


def check_slots(slots: int, engine: CudaEngine) -> None:
    most = 2**31 // (16 * MAX_ROWS) - 1
    if slots > most:
        raise EngineError(f"slots {slots} is not in 1..{most}")
    if slots % engine.batch:
        raise EngineError(f"slots {slots} is no multiple of the batch of {engine.name}, {engine.batch}")


def load_kernels(gpu: Gpu, bundle: Bundle) -> tuple[dict[str, GpuKernel], int]:
    """The bundle's kernels for that GPU, and the number of a channel's elements that one program of them computes."""
    stored = read_kernels(bundle)
    kernels = {}
    for name in KERNELS:
        file = choose_binary(stored, name, gpu.capability).file
        data = bundle.read(f"{FOLDER}/{file}")
        kernels[name] = gpu.load(name, stored.kernels[name], file, data, stored.divisible_by)
    return kernels, stored.elements_per_program
