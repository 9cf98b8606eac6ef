"""The CPU device: numpy buffers, the C or numpy twin, and the engine bound once to each slot's part of the buffers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from sdedit.errors import SdeditError, reason
from sdedit.kernels import Twin
from sdedit.kernels.layout import busy_slots

from ..bundle import TensorSpec, resized
from ..engines import Engine, Evaluate, TiledEngine
from ..machine import check_memory
from .arrays import device_arrays, null_name
from .lanes import Lanes

LOG = logging.getLogger("sdedit")


def check_slots(inputs: Mapping[str, TensorSpec], slots: int, guided: bool) -> None:
    """Raise EngineError if the device's arrays exceed this process's memory."""
    each = sum(prod(shape) * dtype.itemsize for shape, dtype in device_arrays(inputs, 1, guided).values())
    _, height, width = inputs["x"].shape
    check_memory(f"slots of {height}x{width}", slots, each)


class CpuDevice:
    """Implements loop.Device. Every slot is evaluated at the engine's batch of 1, a guided one in two passes.

    As many passes as there are lanes are evaluated at the same time, each on one thread; what is left over, one after
    another on all threads. That both give the same bits is a property of the engine and of this machine, not a law:
    when lanes are first to be used, one step is made both ways. If the bits differ, lanes are never used.

    inputs: the network's inputs by name (Bundle.inputs); the device has an array for each, which evaluations read.
    guided: whether there is an unconditional pass: the same engine bound to the arrays null_NAME of its conditions.
    multiple_of: of sides that the network takes; only tiles need it. tile: see for_shape. lanes: None for none; devices
    of other shapes share them.
    """

    name = "cpu"
    runs_ahead = False

    def __init__(
        self,
        engine: Engine,
        inputs: Mapping[str, TensorSpec],
        slots: int,
        twin: Twin,
        guided: bool = False,
        multiple_of: int = 1,
        tile: int | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        self.state_shape = inputs["x"].shape
        self.slots = slots
        self.twin = twin
        self.kernels = twin.name
        self._inputs, self._guided, self._multiple_of, self._tile = inputs, guided, multiple_of, tile
        self.engine = self._tiled(engine)
        self._lanes = lanes
        self._state = {name: np.zeros(*spec) for name, spec in device_arrays(inputs, slots, guided).items()}
        self._evaluate = self._bind(self.engine)
        self._evaluate_in_lanes: list[list[Evaluate]] = []  # empty until they are tried

    def _bind(self, engine: Engine) -> list[list[Evaluate]]:
        """Bind an engine to the arrays: for each slot, the pass that fills o, and the one that fills o_uncond."""
        state, names = self._state, {name: name for name in self._inputs}
        null_names = {name: null_name(name) for name in self._inputs}

        def bind(slot: int, arrays: Mapping[str, str], out: str) -> Evaluate:
            here = slice(slot, slot + 1)
            return engine.bind({name: state[array][here] for name, array in arrays.items()}, state[out][here])

        passes = [(names, "o"), (null_names, "o_uncond")] if self._guided else [(names, "o")]
        return [[bind(slot, arrays, out) for arrays, out in passes] for slot in range(self.slots)]

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        for name, value in values.items():
            if name == "rows":
                self._state[name][slot, : np.size(value)] = value
            else:
                self._state[name][slot] = value

    def read(self, slot: int, name: str) -> np.ndarray:
        return self._state[name][slot].copy()

    def snapshot(self, slot: int, name: str) -> Callable[[], np.ndarray]:
        copy = self.read(slot, name)
        return lambda: copy

    def release(self, slot: int) -> None:
        self._state["row_count"][slot] = 0

    def begin(self) -> None:
        self.twin.begin(self._state)

    def step(self) -> None:
        s = self._state
        self.evaluate(busy_slots(s["counter"], s["row_count"]))
        self.twin.step(s)
        self.twin.advance(s)

    def evaluate(self, slots: Sequence[int]) -> None:
        """Run the network for these slots; rows with guidance 1 take o as o_uncond too, which saves a pass."""
        s, lanes = self._state, self._lanes
        guided = [slot for slot in slots if self._guided and s["rows"][slot, s["counter"][slot]]["guidance"] != 1]
        passes = [(slot, 0) for slot in slots] + [(slot, 1) for slot in guided]
        count = 0 if lanes is None else len(passes) // lanes.count * lanes.count
        if lanes is not None and count:
            if not self._evaluate_in_lanes:
                self._try_lanes(lanes, passes[:count])
            else:
                lanes.run([self._evaluate_in_lanes[slot][number] for slot, number in passes[:count]])
        for slot, number in passes[count:]:
            self._evaluate[slot][number]()
        if self._guided:
            for slot in set(slots).difference(guided):
                s["o_uncond"][slot] = s["o"][slot]

    def _try_lanes(self, lanes: Lanes, passes: Sequence[tuple[int, int]]) -> None:
        """Run these passes (slot, number) one after another and again in lanes; decide about lanes for good.

        Nothing that fails in lanes fails an edit here, since what they were to give is there already.
        """
        for slot, number in passes:
            self._evaluate[slot][number]()
        expected: dict[str, np.ndarray] = {}
        try:
            expected |= {name: self._state[name].copy() for name in ("o", "o_uncond") if name in self._state}
            in_lanes = self._bind(self._tiled(lanes.engine))
            lanes.run([in_lanes[slot][number] for slot, number in passes])
            differ = any(values.tobytes() != self._state[name].tobytes() for name, values in expected.items())
            why = "on one thread the network gives other bits" if differ else ""
        except (SdeditError, MemoryError, RuntimeError) as error:  # RuntimeError: no thread can be started
            why = reason(error)
        where = f"{self.engine.name}, states of {'x'.join(map(str, self.state_shape))}"
        if not why:
            self._evaluate_in_lanes = in_lanes
            LOG.info("%s: %d passes are evaluated at the same time", where, lanes.count)
            return
        for name, values in expected.items():
            self._state[name][:] = values
        lanes.close()
        self._lanes = None
        LOG.info("%s: passes are evaluated one after another: %s", where, why)

    def check_shape(self, shape: tuple[int, ...], tile: int | None) -> None:
        del tile
        check_slots(resized(self._inputs, shape), self.slots, self._guided)

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "CpuDevice":
        inputs = resized(self._inputs, shape)
        shared = self.twin, self._guided, self._multiple_of
        return CpuDevice(self.engine, inputs, self.slots, *shared, tile=tile, lanes=self._lanes)

    def _tiled(self, engine: Engine) -> Engine:
        return engine if self._tile is None else TiledEngine(engine, self._tile, self._multiple_of)

    def close(self) -> None:
        """End the lanes' threads, which start again if another device needs them; the rest is arrays."""
        if self._lanes is not None:
            self._lanes.close()
