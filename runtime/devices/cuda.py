"""The CUDA device: the state in static buffers; engine, step and advance captured once as a graph and replayed.

Values that change between steps lie in device memory: a captured graph holds addresses and nothing else. All work is
enqueued on one stream, in order. The host waits only to read a result, before it overwrites memory that is still to be
copied, and when it is AHEAD steps ahead. A snapshot is copied while the device goes on.
"""

import logging
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason
from sdedit.kernels.layout import busy_slots

from ..bundle import Bundle, resized
from ..bundle.kernels import DIVISIBLE_BY, MAX_PIXELS
from ..cuda import Gpu
from ..engines import CudaEngine, Enqueue
from ..plan import MAX_ROWS
from .arrays import device_arrays, null_name
from .cuda_kernels import load_kernels
from .cuda_memory import CudaArrays, all_bytes, too_large
from .cuda_tiles import TiledCudaEngine, tile_bytes

AHEAD = 2
"""Steps that may be enqueued and not done, so that the GPU need not wait for the host. A cancelled job ends that much
later."""

MAX_GRAPHS = 32
"""Graphs kept at once for a shape of states. Each set of slots that is busy together needs up to two, and with guidance
one more for each set of slots that are guided."""

LOG = logging.getLogger("sdedit")


@dataclass(frozen=True)
class GraphKey:
    """Everything that shapes a graph. Buffers never move, so that addresses do not matter.

    groups: of slots that the engine runs. step: name of the step kernel. guided: busy slots whose row needs the
    unconditional pass. unguided: the other busy slots, if there are guided ones: their o_uncond is a copy of o.
    """

    groups: tuple[int, ...]
    step: str
    guided: tuple[int, ...] = ()
    unguided: tuple[int, ...] = ()


class CudaDevice:
    """Implements loop.Device. Slots form groups of the engine's batch; the engine runs the groups with a busy slot.

    eager: run the same calls without capturing them. captures: number of graphs made so far.
    """

    runs_ahead = True

    def __init__(
        self,
        gpu: Gpu,
        bundle: Bundle,
        engine: CudaEngine,
        slots: int,
        eager: bool = False,
        *,
        shape: tuple[int, ...] | None = None,
        tile: int | None = None,
        native: "CudaDevice | None" = None,
    ) -> None:
        """Raises EngineError if the bundle has no kernels for the GPU, or the slots do not fit into memory.

        shape: of states; None: the native one. tile: see Device.for_shape. native: the device for the native shape,
        which owns GPU and engine. Without it this device owns both: it closes the engine when it is closed, and the GPU
        also if this fails.
        """
        check_slots(slots, engine)
        self.name = "cuda" if gpu.index == 0 else f"cuda:{gpu.index}"
        self.engine = engine
        self.slots = slots
        self.captures = 0
        self.state_shape: tuple[int, ...] = bundle.state_shape if shape is None else shape
        self._bundle = bundle
        self._gpu = gpu
        self._owner = native is None
        self._uses: Counter[tuple[int, ...]] = Counter() if native is None else native._uses
        self._evaluated = tile_of(self.state_shape, tile)
        self._tiled = None if tile is None else TiledCudaEngine(gpu, engine, tile, bundle.image.multiple_of)
        self._runs: CudaEngine = engine if self._tiled is None else self._tiled
        self.eager = eager or not self._runs.capturable
        self._guided = bundle.null_label is not None
        self._inputs = resized(bundle.inputs, self.state_shape)
        self._others: weakref.WeakValueDictionary[tuple[int | None, ...], CudaDevice] = weakref.WeakValueDictionary()
        self._counter, self._row_count = np.zeros((2, slots), np.uint32)
        self._begin_noise = np.zeros(slots, bool)
        self._guidance: list[np.ndarray] = [np.ones(0, np.float32)] * slots
        self._graphs: OrderedDict[GraphKey, Any] = OrderedDict()
        self._done: deque[Any] = deque()
        self.closed = False
        try:
            if native is None:
                with gpu.calls("to load the kernels"):
                    self._kernels = load_kernels(gpu, bundle, self._guided)
            else:
                self._kernels = native._kernels
            self.kernels = f"triton {self._kernels.kind}"
            self._memory = CudaArrays(gpu, device_arrays(self._inputs, slots, self._guided))
            try:
                self._evaluate = self._bind({name: name for name in self._inputs}, "o")
                null = {name: null_name(name) for name in self._inputs}
                self._evaluate_uncond = self._bind(null, "o_uncond") if self._guided else {}
            except BaseException:
                self._free()
                raise
            self._uses[self._evaluated] += 1
        except BaseException:
            if self._owner:
                gpu.close()
            raise

    # Device.

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        parts = self._memory.write(slot, values)
        if "counter" in parts:
            self._counter[slot] = parts["counter"]
        if "row_count" in parts:
            self._row_count[slot] = parts["row_count"]
        if "rows" in parts:
            self._begin_noise[slot] = parts["rows"]["keep_noise"].any()
            self._guidance[slot] = parts["rows"]["guidance"].copy()

    def read(self, slot: int, name: str) -> np.ndarray:
        return self._memory.read(slot, name)

    def snapshot(self, slot: int, name: str) -> Callable[[], np.ndarray]:
        return self._memory.snapshot(slot, name)

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
        """May be called from any thread, beside the one that runs the device."""
        if (shape, tile) == (self.state_shape, None):
            return
        _, height, width = shape
        if not self._bundle.image.free and tile_of(shape, tile) != self.state_shape:
            native = "x".join(map(str, self.state_shape[1:]))
            raise EngineError(f"{self._bundle.name} takes the native size only, {native}, not {height}x{width}")
        if height * width % DIVISIBLE_BY or height * width > MAX_PIXELS:
            raise EngineError(
                f"GPU kernels need height x width divisible by {DIVISIBLE_BY} and at most {MAX_PIXELS}, "
                f"not {height}x{width}: choose another size, or device cpu"
            )
        self.engine.check_shape(tile_of(shape, tile))
        known = self._others.get((*shape, tile))
        if known is not None and not known.closed:
            return
        specs = device_arrays(resized(self._inputs, shape), self.slots, self._guided)
        with self._gpu.calls("to tell its free memory"):
            free = self._gpu.free_memory()
        tiles = 0 if tile is None else tile_bytes(self._inputs, tile_of(shape, tile), self._guided)
        if self.slots * (all_bytes(specs) + tiles) > free:
            raise EngineError(too_large(self._gpu, specs, free, tiles))

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "CudaDevice":
        self.check_shape(shape, tile)
        shared = self._gpu, self._bundle, self.engine, self.slots, self.eager
        device = CudaDevice(*shared, shape=shape, tile=tile, native=self)
        self._others[*shape, tile] = device
        return device

    def close(self) -> None:
        """Free everything on the GPU; afterwards every call raises EngineError. An engine's failure is only logged.

        A device for another shape than the native one frees its own buffers and graphs.
        """
        if self.closed:
            return
        self.closed = True
        graphs = list(self._graphs.values())
        self._evaluate, self._evaluate_uncond = {}, {}
        self._graphs, self._done = OrderedDict(), deque()
        try:
            self._gpu.free(*graphs)
            self._free()
            self._uses[self._evaluated] -= 1
            if self._owner:
                self.engine.close()
            elif not self._uses[self._evaluated]:  # another device may evaluate that shape
                self.engine.forget(self._evaluated)
        except Exception as error:  # engines' errors share no base class
            LOG.warning("engine %s failed to close: %s", self.engine.name, reason(error))
        finally:
            if self._owner:
                self._gpu.close()

    def _free(self) -> None:
        """Free all buffers."""
        self._memory.close()
        if self._tiled is not None:
            self._tiled.close()

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
        for group in sorted({slot // self.engine.batch for slot in key.guided}):
            self._evaluate_uncond[group](self._gpu.stream)
        for slot in key.unguided:
            self._copy_output(slot)
        self._launch(key.step, self._grid(), {} if key.guided else {"p_o_uncond": self._memory.buffers["o"]})
        self._launch("advance", (self.slots, 1, 1))

    def _copy_output(self, slot: int) -> None:
        """o_uncond of a slot whose guidance is 1."""
        nbytes = self._memory.slot_bytes("o")
        at = slot * nbytes
        self._gpu.copy(self._memory.buffers["o_uncond"], at, self._memory.buffers["o"], at, nbytes)

    def _key(self, busy: list[int]) -> GraphKey:
        groups = tuple(sorted({slot // self.engine.batch for slot in busy}))
        step = "step_guided" if self._guided else "step"
        if self._begin_noise[busy].any():
            step += "_begin_noise"
        guided = [slot for slot in busy if self._guided and self._guidance[slot][self._counter[slot]] != 1]
        unguided = [slot for slot in busy if slot not in guided] if guided else []
        return GraphKey(groups, step, tuple(guided), tuple(unguided))

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

    def _launch(self, name: str, grid: tuple[int, int, int], instead: Mapping[str, Any] | None = None) -> None:
        kernel = self._kernels.functions[name]
        known = {**self._arguments(), **(instead or {})}
        wanted = {p.name for p in kernel.parameters}
        self._gpu.launch(kernel, grid, {k: v for k, v in known.items() if k in wanted})

    def _arguments(self) -> dict[str, Any]:
        """The arguments of all kernels by their parameters' names."""
        pointers = {f"p_{name}": buffer for name, buffer in self._memory.buffers.items()}
        return {**pointers, "pixels": self.state_shape[1] * self.state_shape[2], "max_rows": MAX_ROWS}

    def _grid(self) -> tuple[int, int, int]:
        channels, height, width = self.state_shape
        return channels, -(-height * width // self._kernels.elements_per_program), self.slots

    def _bind(self, arrays: Mapping[str, str], out: str) -> dict[int, Enqueue]:
        """Bind the engine to each group's part of the buffers. arrays: from which array it reads each input."""
        batch = self.engine.batch
        return {
            group: self._runs.bind(
                {name: self._memory.part(array, group * batch, batch) for name, array in arrays.items()},
                self._memory.part(out, group * batch, batch),
            )
            for group in range(self.slots // batch)
        }


def tile_of(shape: tuple[int, ...], tile: int | None) -> tuple[int, ...]:
    """Shape of what the network evaluates at once."""
    return shape if tile is None else (shape[0], min(shape[1], tile), min(shape[2], tile))


def check_slots(slots: int, engine: CudaEngine) -> None:
    most = 2**31 // (16 * MAX_ROWS) - 1
    if slots > most:
        raise EngineError(f"slots {slots} is not in 1..{most}")
    if slots % engine.batch:
        raise EngineError(f"slots {slots} is no multiple of the batch of {engine.name}, {engine.batch}")
