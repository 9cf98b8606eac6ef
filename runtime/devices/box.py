"""The device of a session: the network is evaluated in a box alone, by what an edit of the photo itself left there."""

from collections.abc import Callable, Mapping

import numpy as np

from sdedit.kernels import Twin

from ..bundle import TensorSpec
from ..engines import Evaluate
from ..engines.box import Box, BoxNetwork, Kept
from .cpu import CpuDevice

Evaluation = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Fills out [1, C, H, W] from x and time."""


class BoxEngine:
    """Implements engines.Engine by a function; the rest is the network's."""

    def __init__(self, network: BoxNetwork, evaluation: Evaluation) -> None:
        self.name, self.version, self.precision = network.name, network.version, network.precision
        self.batch, self.threads = network.batch, network.threads
        self._evaluation = evaluation

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        return lambda: self._evaluation(inputs["x"], inputs["time"], out)


class Recording:
    """An edit of the photo itself, step by step as far as it is asked for: what its whole passes leave for the box."""

    def __init__(
        self,
        network: BoxNetwork,
        inputs: Mapping[str, TensorSpec],
        twin: Twin,
        box: Box,
        values: Mapping[str, np.ndarray | np.generic],
    ) -> None:
        """values: of one slot, as Device.write has them."""
        self._kept: list[Kept] = []
        self._steps = np.atleast_1d(values["rows"])["step"]

        def evaluate(x: np.ndarray, time: np.ndarray, out: np.ndarray) -> None:
            out[:], kept = network.whole(x, time, box)
            self._kept.append(kept)

        self._device = CpuDevice(BoxEngine(network, evaluate), inputs, 1, twin)
        self._device.write(0, values)

    def at(self, row: int) -> Kept:
        """The values that the whole pass of that row leaves; the rows before it are made first where they lack."""
        while len(self._kept) <= row:
            if self._steps[len(self._kept)] == 0:
                self._device.begin()
            self._device.step()
        return self._kept[row]


class BoxDevice(CpuDevice):
    """Implements loop.Device for edits that differ from a photo in a place alone, which lies in a box.

    The cells outside the box have the same states in an edit of the photo itself, since their noise is the same, so its
    layers there serve all edits. It is made once for each image number, along with the first edit, and only as far as
    that goes. It knows nothing of the edits, so the result of one does not depend on those before it. All tasks have
    the same plan and seed.
    """

    def __init__(
        self,
        network: BoxNetwork,
        inputs: Mapping[str, TensorSpec],
        twin: Twin,
        box: Box,
        photo: np.ndarray,
        place: np.ndarray,
    ) -> None:
        """photo: its state, float32 [C, H, W]. place: mask of what may change, float32 [H, W], inside the box."""
        self._network, self._twin, self._box = network, twin, box
        self._photo, self._place = photo, place
        self._recordings: dict[int, Recording] = {}
        self._recording: Recording | None = None
        super().__init__(BoxEngine(network, self._evaluate_box), inputs, 1, twin)

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        super().write(slot, values)
        image = int(values["image"])
        if image not in self._recordings:
            own = {**values, "guide": self._photo, "mask": self._place}
            self._recordings[image] = Recording(self._network, self._inputs, self._twin, self._box, own)
        self._recording = self._recordings[image]

    def close(self) -> None:
        """Forget the recordings, which are most of the memory."""
        self._recordings.clear()
        self._recording = None
        super().close()

    def _evaluate_box(self, x: np.ndarray, time: np.ndarray, out: np.ndarray) -> None:
        """Fill out in the box. Outside it is 0: nothing reads it there, for all of that is kept."""
        assert self._recording is not None, "a slot is written before it is evaluated"
        kept = self._recording.at(int(self._state["counter"][0]))
        out[:] = 0
        out[:, :, *self._box.slices] = self._network.box(x, time, self._box, kept)
