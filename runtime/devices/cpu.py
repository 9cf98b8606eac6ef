"""The CPU device: numpy buffers, the C or numpy twin, and the engine bound once to each slot's part of the buffers."""

from collections.abc import Mapping

import numpy as np

from sdedit.kernels import Twin
from sdedit.kernels.layout import allocate_state, busy_slots

from ..engines import Engine
from ..plan import MAX_ROWS

UNUSED = ("o_uncond",)
"""Arrays of the layout that unconditional networks do without."""


class CpuDevice:
    """See devices.Device. Slots run one after another at the engine's batch of 1."""

    name = "cpu"

    def __init__(self, engine: Engine, shape: tuple[int, int, int], slots: int, twin: Twin) -> None:
        self.slots = slots
        self.twin = twin
        self.kernels = twin.name
        self.engine = engine
        self._state = {k: v for k, v in allocate_state(slots, MAX_ROWS, shape).items() if k not in UNUSED}
        s = self._state
        self._evaluate = [engine.bind(s["x"][b : b + 1], s["time"][b : b + 1], s["o"][b : b + 1]) for b in range(slots)]

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        for name, value in values.items():
            if name == "rows":
                self._state[name][slot, : np.size(value)] = value
            else:
                self._state[name][slot] = value

    def read(self, slot: int, name: str) -> np.ndarray:
        return self._state[name][slot].copy()

    def release(self, slot: int) -> None:
        self._state["row_count"][slot] = 0

    def begin(self) -> None:
        s = self._state
        self.twin.begin(
            s["x"],
            s["guide"],
            s["mask"],
            s["alpha0"],
            s["sigma0"],
            s["rows"],
            s["counter"],
            s["row_count"],
            s["seed"],
            s["image"],
        )

    def step(self) -> None:
        s = self._state
        for slot in busy_slots(s["counter"], s["row_count"]):
            self._evaluate[slot]()
        self.twin.step(
            s["x"],
            s["h"],
            s["guide"],
            s["mask"],
            s["o"],
            None,
            s["rows"],
            s["counter"],
            s["row_count"],
            s["seed"],
            s["image"],
        )
        self.twin.advance(s["rows"], s["counter"], s["row_count"], s["time"])

    def close(self) -> None:
        """Nothing to do: it holds arrays only."""
