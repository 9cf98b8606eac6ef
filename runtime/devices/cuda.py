"""The CUDA device: the state in static buffers, engine + step + advance captured once as a graph and replayed.

What changes between steps lies in device memory: a captured graph has addresses and nothing else. All is enqueued on
one stream, in order; the host waits where it reads, where it would overwrite what is still to be copied, and where it
is AHEAD steps ahead.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sdedit.errors import EngineError
from sdedit.kernels.layout import busy_slots, state_arrays

from ..bundle import Bundle, read_kernels
from ..bundle.kernels import FOLDER, choose_binary
from ..cuda import Gpu, GpuKernel, OutOfMemory
from ..engines import CudaEngine, DeviceArray, Enqueue
from ..plan import MAX_ROWS

UNUSED = ("o_uncond",)
"""Arrays of the layout that networks without guidance do without."""

KERNELS = ("begin", "step", "step_begin_noise", "advance")

PLACE = 256
"""Bytes; parts of the staging memory start at multiples of it."""

AHEAD = 2
"""Steps that may be enqueued and not done: the GPU need not wait for the host; a cancelled job ends as much later."""

MAX_GRAPHS = 32
"""Kept at once. There are two for each set of slots that is busy together."""


@dataclass(frozen=True)
class GraphKey:
    """All that shapes a graph: the groups of slots that the engine runs, and the step kernel. Buffers never move."""

    groups: tuple[int, ...]
    step: str


class CudaDevice:
    """See devices.Device. The engine runs batches of slots, those with a busy slot in them.

    eager: run the same calls without capturing them. captures: graphs made so far.
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
        """Raises EngineError where the bundle has no kernels for the GPU, or the slots do not fit into its memory."""
        check_slots(slots, engine)
        self.engine = engine
        self.slots = slots
        self.eager = eager or not engine.capturable
        self.captures = 0
        self._gpu = gpu
        self._shape = bundle.state_shape
        self._arrays = {k: v for k, v in state_arrays(slots, MAX_ROWS, bundle.state_shape).items() if k not in UNUSED}
        self._counter, self._row_count = np.zeros((2, slots), np.uint32)
        self._begin_noise = np.zeros(slots, bool)
        self._graphs: OrderedDict[GraphKey, Any] = OrderedDict()
        self._done: deque[Any] = deque()
        with gpu.calls("to load the kernels"):
            self._kernels, self._elements = load_kernels(gpu, bundle)
        self.kernels = f"triton {self._kernels['step'].file.split('.', 1)[1]}"
        with gpu.calls("to allocate"):
            self._buffers = self._allocate()
            self._staging = [gpu.allocate_pinned(self._staging_bytes()) for _ in range(slots)]
            self._staged: list[Any] = [None] * slots
            self._landing = gpu.allocate_pinned(self._staging_bytes())
        self._snapshots: list[Any] = []
        self._free_snapshots: list[Any] = []
        self._evaluate = self._bind()

    def _new_snapshot(self) -> Any:
        self._snapshots.append(self._gpu.allocate_pinned(self._staging_bytes()))
        return self._snapshots[-1]

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
            memory = self._free_snapshots.pop() if self._free_snapshots else self._new_snapshot()
            buffer, host = memory
            self._gpu.copy(buffer, 0, self._buffers[name], slot * nbytes, nbytes)
            copied = self._gpu.record()

        def fetch() -> np.ndarray:
            with self._gpu.calls("in mid-edit"):
                copied.sync()
            self._free_snapshots.append(memory)
            return host[:nbytes].view(dtype).reshape(shape[1:]).copy()

        return fetch

    def release(self, slot: int) -> None:
        with suppress(EngineError):  # on a device that is lost nothing runs any more
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

    def close(self) -> None:
        """Free what it holds on the GPU; afterwards every call is an EngineError."""
        if not self._kernels:
            return
        pinned = [*self._staging, self._landing, *self._snapshots]
        resources: list[Any] = [*self._graphs.values(), *self._buffers.values(), *(buffer for buffer, _ in pinned)]
        self._evaluate, self._kernels = {}, {}
        self._graphs, self._done, self._staged = OrderedDict(), deque(), []
        self._snapshots, self._free_snapshots = [], []
        try:
            self.engine.close()
        finally:  # an engine that fails to close keeps nothing of ours
            self._gpu.close(*resources)

    # A step.

    def _run(self, key: GraphKey) -> None:
        if self.eager:
            self._enqueue(key)
            return
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self._gpu.replay(self._graphs[key])
            return
        self._drop_oldest_graph()
        self._enqueue(key)  # this step; engines do on their first run what cannot be captured
        self._gpu.wait()
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
        """Make room for one more graph: the one that was not used for longest goes."""
        if len(self._graphs) >= MAX_GRAPHS:
            self._gpu.wait()
            _, graph = self._graphs.popitem(last=False)
            graph.close()

    def _wait_for_room(self) -> Any:
        """Until fewer than AHEAD steps are under way; the event of the one that is done, to be used again."""
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
        """Everything that kernels ask for, by their parameters' names."""
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
            self._gpu.close(*buffers.values())
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
        """The engine on each group's part of the buffers."""
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

    def _staging_bytes(self) -> int:
        return sum(-(-self._slot_bytes(name) // PLACE) * PLACE for name in self._arrays)

    def _checked(self, name: str, value: np.ndarray | np.generic) -> np.ndarray:
        """Contiguous, of the array's type and a slot's shape; rows may be fewer. Raises ValueError for all else."""
        shape, dtype = self._arrays[name]
        part = np.ascontiguousarray(value).reshape(np.shape(value))
        fits = part.shape == shape[1:] or (name == "rows" and part.ndim == 1 and part.size <= shape[1])
        if part.dtype != dtype or not fits:
            raise ValueError(f"{name} of a slot is {dtype} {list(shape[1:])}, got {part.dtype} {list(part.shape)}")
        return part

    def _note(self, slot: int, parts: Mapping[str, np.ndarray]) -> None:
        """What the host needs to know of a slot: whether it is busy, and whether its plan uses the begin noise."""
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
    """The bundle's kernels for that GPU, and how many elements of a channel one program of theirs does."""
    stored = read_kernels(bundle)
    kernels = {}
    for name in KERNELS:
        file = choose_binary(stored, name, gpu.capability).file
        data = bundle.read(f"{FOLDER}/{file}")
        kernels[name] = gpu.load(name, stored.kernels[name], file, data, stored.divisible_by)
    return kernels, stored.elements_per_program
