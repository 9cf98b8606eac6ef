"""The loop: tasks enter free slots at step boundaries, all busy slots step together, finished ones leave."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .plan import Plan


class Device(Protocol):
    """Static buffers for the arrays of kernels.layout, and the two launches that an edit is made of.

    kernels: their name, for the recipe. state_shape: C, H, W of the states in its buffers. runs_ahead: whether work can
    still be in flight when a call returns; then only `read` and a snapshot's function wait. After a failure of the
    device itself, calls raise EngineError.
    """

    name: str
    kernels: str
    slots: int
    state_shape: tuple[int, ...]
    runs_ahead: bool

    @property
    def engine(self) -> Any:
        """The engine that evaluates the network."""

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        """Copy values into one slot's part of the arrays by name; rows may be fewer than the slot has room for."""

    def read(self, slot: int, name: str) -> np.ndarray:
        """Copy one slot's part of an array, after all steps so far."""

    def snapshot(self, slot: int, name: str) -> Callable[[], np.ndarray]:
        """Begin to copy one slot's part of an array as it is now; the function returned waits for the copy.

        The device may go on with the next step before the function is called.
        """

    def release(self, slot: int) -> None:
        """Make the slot idle; a lost device is no error here."""

    def begin(self) -> None:
        """Noise the guide in every slot whose next row is the first of a repeat."""

    def step(self) -> None:
        """Run network, step and advance in every busy slot."""

    def check_shape(self, shape: tuple[int, ...], tile: int | None) -> None:
        """Raise EngineError if `for_shape` would: for a shape that it cannot edit, or has no memory for."""

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "Device":
        """Buffers for states of another shape, as a device that shares this one's engine.

        tile: side of the overlapping tiles in which the network is evaluated; None: all at once.
        """

    def close(self) -> None:
        """Free everything outside this process's memory. The device cannot be used afterwards."""


Conditions = Mapping[str, np.ndarray | np.generic]
"""Values of a network's inputs besides x and time, by name."""


@dataclass(frozen=True, eq=False)
class Task:
    """One image to make.

    guide: float32 [C, H, W] in [-1, 1]. mask: float32 [H, W] in [0, 1]. seed: 64 bits. image: 32 bits; with the seed it
    keys the noise. conditions: values of the network's inputs besides x and time, by name. null_conditions: for
    the unconditional pass, if the network has one. tile: see Device.for_shape.
    """

    plan: Plan
    guide: np.ndarray
    mask: np.ndarray
    seed: int
    image: int
    conditions: Conditions = field(default_factory=dict)
    null_conditions: Conditions = field(default_factory=dict)
    tile: int | None = None


KEPT_SHAPES = 4
"""Shapes of states, besides the native one, whose buffers are kept when no task has them any more, at most."""

Kind = tuple[tuple[int, ...], int | None]
"""Shape of a task's state, and its tile."""


class Loop:
    """Drives a device, and one more for each further shape of states. Not thread-safe: one owner calls it.

    Together they run as many tasks as the device has slots. All devices with tasks step in turn.
    """

    def __init__(self, device: Device, kept_shapes: int = KEPT_SHAPES) -> None:
        """kept_shapes: see KEPT_SHAPES; fewer where an engine has large weights once for each shape."""
        self._device = device
        self._kept_shapes = kept_shapes
        self._native: Kind = (tuple(device.state_shape), None)
        self._devices: OrderedDict[Kind, Device] = OrderedDict({self._native: device})
        self._slots: dict[Task, int] = {}
        self._at: dict[Task, int] = {}

    @property
    def busy(self) -> bool:
        return bool(self._slots)

    @property
    def full(self) -> bool:
        return len(self._slots) == self._device.slots

    def admit(self, task: Task) -> None:
        """Put a task into a free slot; the loop must not be full."""
        kind = kind_of(task)
        device = self._device_for(kind)
        taken = {slot for other, slot in self._slots.items() if kind_of(other) == kind}
        slot = min(set(range(device.slots)) - taken)
        plan = task.plan
        values = {
            "guide": task.guide,
            "mask": task.mask,
            "rows": plan.rows,
            "time": plan.rows["time"][0],
            "alpha0": np.float32(plan.alpha0),
            "sigma0": np.float32(plan.sigma0),
            "seed": np.uint64(task.seed),
            "image": np.uint32(task.image),
            "counter": np.uint32(0),
            "row_count": np.uint32(len(plan.rows)),
            **task.conditions,
            **{f"null_{name}": value for name, value in task.null_conditions.items()},
        }
        device.write(slot, values)
        self._slots[task] = slot
        self._at[task] = 0

    def step(self) -> list[tuple[Task, np.ndarray]]:
        """Run one step of every busy slot; returns the finished tasks, each with its result float32 [C, H, W]."""
        for kind in dict.fromkeys(map(kind_of, self._at)):
            device = self._devices[kind]
            if any(task.plan.rows["step"][at] == 0 for task, at in self._at.items() if kind_of(task) == kind):
                device.begin()
            device.step()
        finished = []
        for task, at in list(self._at.items()):
            self._at[task] = at + 1
            if at + 1 == len(task.plan.rows):
                finished.append((task, self._devices[kind_of(task)].read(self._slots[task], "x")))
                self._forget(task)
        return finished

    @property
    def runs_ahead(self) -> bool:
        """Whether the device may still be working on a step when `step` returns."""
        return self._device.runs_ahead

    def prediction(self, task: Task) -> Callable[[], np.ndarray]:
        """Begin to copy the newest prediction of x0 of a task that is in a slot; the function returned gives the copy.

        The copy is float32 [C, H, W], of the prediction at this moment, whatever is stepped before it is fetched.
        """
        return self._devices[kind_of(task)].snapshot(self._slots[task], "h")

    def drop(self, task: Task) -> None:
        """Take a task out of its slot, which is idle from then on. A task without a slot is ignored."""
        if task in self._slots:
            self._devices[kind_of(task)].release(self._slots[task])
            self._forget(task)

    def clear(self) -> None:
        """Drop all tasks."""
        for task in list(self._slots):
            self.drop(task)

    def close(self) -> None:
        """Close the devices, which must not be used any more: the native one last, since others share its engine."""
        for kind in sorted(self._devices, key=lambda kind: kind == self._native):
            self._devices[kind].close()

    def _device_for(self, kind: Kind) -> Device:
        """The device of that kind, made if there is none; of those without tasks only the last few are kept."""
        if kind not in self._devices:
            used = {self._native, *map(kind_of, self._slots)}
            idle = [other for other in self._devices if other not in used]
            for other in idle[: max(len(idle) - self._kept_shapes + 1, 0)]:
                self._devices.pop(other).close()
            self._devices[kind] = self._device.for_shape(*kind)
        self._devices.move_to_end(kind)
        return self._devices[kind]

    def _forget(self, task: Task) -> None:
        del self._slots[task], self._at[task]


def kind_of(task: Task) -> Kind:
    return task.guide.shape, task.tile
