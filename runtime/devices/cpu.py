"""The CPU device: numpy buffers, the C or numpy twin, and the engine bound once to each slot's part of the buffers."""

from collections.abc import Callable, Mapping

import numpy as np

from sdedit.kernels import Twin
from sdedit.kernels.layout import allocate_state, busy_slots

from ..bundle import TensorSpec
from ..engines import Engine, Evaluate
from ..plan import MAX_ROWS


class CpuDevice:
    """See devices.Device. Slots run one after another at the engine's batch of 1.

    inputs: of the network, by name (Bundle.inputs); the device has an array for each, and each evaluation reads them.
    guided: whether there is an unconditional pass: the same engine bound to the arrays null_NAME of its conditions.
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
    ) -> None:
        self.slots = slots
        self.twin = twin
        self.kernels = twin.name
        self.engine = engine
        channels, height, width = inputs["x"].shape
        self._state = allocate_state(slots, MAX_ROWS, (channels, height, width))
        if not guided:
            del self._state["o_uncond"]
        names = {name: name for name in inputs}
        null_names = {name: name if name in self._state else f"null_{name}" for name in inputs}
        for arrays in (names, null_names) if guided else (names,):
            for name, array in arrays.items():
                self._state.setdefault(array, np.zeros((slots, *inputs[name].shape), inputs[name].dtype))
        self._evaluate = [self._bind(slot, names, "o") for slot in range(slots)]
        self._evaluate_uncond = [self._bind(slot, null_names, "o_uncond") for slot in range(slots)] if guided else []

    def _bind(self, slot: int, arrays: Mapping[str, str], out: str) -> Evaluate:
        """The engine on one slot's part of the arrays; arrays: of each input, by its name."""
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

    def close(self) -> None:
        """Nothing to do: it holds arrays only."""

    def _guide(self, slot: int) -> None:
        """o_uncond of the slot's row; o itself where its guidance is 1, which saves an evaluation."""
        s = self._state
        if s["rows"][slot, s["counter"][slot]]["guidance"] == 1:
            s["o_uncond"][slot] = s["o"][slot]
        else:
            self._evaluate_uncond[slot]()
