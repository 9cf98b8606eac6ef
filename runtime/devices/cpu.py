"""The CPU device: numpy buffers, the C or numpy twin, and the engine bound once to each slot's part of the buffers."""

from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from sdedit.errors import EngineError
from sdedit.kernels import Twin
from sdedit.kernels.layout import busy_slots, state_arrays

from ..bundle import TensorSpec
from ..engines import Engine, Evaluate, TiledEngine
from ..machine import available_memory
from ..plan import MAX_ROWS


def device_arrays(
    inputs: Mapping[str, TensorSpec], slots: int, guided: bool
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of the device: the kernels' state, and the network's other inputs.

    guided: with o_uncond, and an array of its own for each condition of the unconditional pass.
    """
    channels, height, width = inputs["x"].shape
    arrays = dict(state_arrays(slots, MAX_ROWS, (channels, height, width)))
    if not guided:
        del arrays["o_uncond"]
    for name, spec in inputs.items():
        for array in (name, null_name(name)) if guided else (name,):
            arrays.setdefault(array, ((slots, *spec.shape), spec.dtype))
    return arrays


def check_memory(inputs: Mapping[str, TensorSpec], slots: int, guided: bool) -> None:
    """Raise EngineError if the device's arrays exceed this process's memory."""
    each = sum(prod(shape) * dtype.itemsize for shape, dtype in device_arrays(inputs, 1, guided).values())
    free = available_memory()
    if free is not None and slots * each > free:
        _, height, width = inputs["x"].shape
        raise EngineError(
            f"{slots} slots of {height}x{width} need {slots * each / 1e9:,.1f} GB of memory, "
            f"{free / 1e9:,.1f} GB are available: {free // each} would fit"
        )


def null_name(name: str) -> str:
    """The array from which the unconditional pass reads an input: its own for a condition, else the same."""
    return name if name in ("x", "time") else f"null_{name}"


class CpuDevice:
    """Implements loop.Device. Slots run one after another at the engine's batch of 1.

    inputs: the network's inputs by name (Bundle.inputs); the device has an array for each, which evaluations read.
    guided: whether there is an unconditional pass: the same engine bound to the arrays null_NAME of its conditions.
    multiple_of: of sides that the network takes; only tiles need it.
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
    ) -> None:
        self.state_shape = inputs["x"].shape
        self.slots = slots
        self.twin = twin
        self.kernels = twin.name
        self.engine = engine
        self._inputs, self._guided, self._multiple_of = inputs, guided, multiple_of
        self._state = {name: np.zeros(*spec) for name, spec in device_arrays(inputs, slots, guided).items()}
        names = {name: name for name in inputs}
        null_names = {name: null_name(name) for name in inputs}
        self._evaluate = [self._bind(slot, names, "o") for slot in range(slots)]
        self._evaluate_uncond = [self._bind(slot, null_names, "o_uncond") for slot in range(slots)] if guided else []

    def _bind(self, slot: int, arrays: Mapping[str, str], out: str) -> Evaluate:
        """Bind the engine to one slot's part of the arrays. arrays: the name of each input's array."""
        here = slice(slot, slot + 1)
        inputs = {name: self._state[array][here] for name, array in arrays.items()}
        return self.engine.bind(inputs, self._state[out][here])

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
        for slot in busy_slots(s["counter"], s["row_count"]):
            self._evaluate[slot]()
            if self._evaluate_uncond:
                self._guide(slot)
        self.twin.step(self._state)
        self.twin.advance(self._state)

    def check_shape(self, shape: tuple[int, ...], tile: int | None) -> None:
        del tile
        check_memory(self._inputs_at(shape), self.slots, self._guided)

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "CpuDevice":
        inputs = self._inputs_at(shape)
        engine = self.engine if tile is None else TiledEngine(self.engine, tile, self._multiple_of)
        return CpuDevice(engine, inputs, self.slots, self.twin, self._guided, self._multiple_of)

    def _inputs_at(self, shape: tuple[int, ...]) -> dict[str, TensorSpec]:
        return {**self._inputs, "x": TensorSpec(self._inputs["x"].dtype, shape)}

    def close(self) -> None:
        """Do nothing: it holds arrays only."""

    def _guide(self, slot: int) -> None:
        """Fill o_uncond of the slot; a row with guidance 1 takes o itself, which saves an evaluation."""
        s = self._state
        if s["rows"][slot, s["counter"][slot]]["guidance"] == 1:
            s["o_uncond"][slot] = s["o"][slot]
        else:
            self._evaluate_uncond[slot]()
