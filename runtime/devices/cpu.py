"""The CPU device: numpy buffers, the C or numpy twin, and the engine bound once to each slot's part of the buffers."""

from collections.abc import Mapping

import numpy as np

from sdedit.kernels import Twin
from sdedit.kernels.layout import allocate_state, busy_slots

from ..engines import Engine, Evaluate
from ..plan import MAX_ROWS


class CpuDevice:
    """See devices.Device. Slots run one after another at the engine's batch of 1.

    classes: of the network's labels; 0: it takes none. null_label: what o_uncond is evaluated with; None: no guidance.
    """

    name = "cpu"

    def __init__(
        self,
        engine: Engine,
        shape: tuple[int, int, int],
        slots: int,
        twin: Twin,
        classes: int = 0,
        null_label: int | None = None,
    ) -> None:
        self.slots = slots
        self.twin = twin
        self.kernels = twin.name
        self.engine = engine
        unused = {*(() if classes else ("label",)), *(() if null_label is not None else ("o_uncond",))}
        self._state = {k: v for k, v in allocate_state(slots, MAX_ROWS, shape).items() if k not in unused}
        self._evaluate = [self._bind(slot, "o", self._state.get("label")) for slot in range(slots)]
        self._evaluate_uncond: list[Evaluate] = []
        if null_label is not None:
            self._null = np.full(slots, null_label, np.int64)  # kept: the engine reads it at every evaluation
            self._evaluate_uncond = [self._bind(slot, "o_uncond", self._null) for slot in range(slots)]

    def _bind(self, slot: int, out: str, label: np.ndarray | None) -> Evaluate:
        here = slice(slot, slot + 1)
        x, time, result = (self._state[name][here] for name in ("x", "time", out))
        if label is None:
            return self.engine.bind(x, time, result)
        return self.engine.bind(x, time, result, label[here])

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
            if self._evaluate_uncond:
                self._guide(slot)
        self.twin.step(
            s["x"],
            s["h"],
            s["guide"],
            s["mask"],
            s["o"],
            s.get("o_uncond"),
            s["rows"],
            s["counter"],
            s["row_count"],
            s["seed"],
            s["image"],
        )
        self.twin.advance(s["rows"], s["counter"], s["row_count"], s["time"])

    def close(self) -> None:
        """Nothing to do: it holds arrays only."""

    def _guide(self, slot: int) -> None:
        """o_uncond of the slot's row; o itself where its guidance is 1, which saves an evaluation."""
        s = self._state
        if s["rows"][slot, s["counter"][slot]]["guidance"] == 1:
            s["o_uncond"][slot] = s["o"][slot]
        else:
            self._evaluate_uncond[slot]()
