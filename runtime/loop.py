"""The loop: tasks enter free slots at step boundaries, all busy slots step together, finished ones leave."""

from dataclasses import dataclass

import numpy as np

from sdedit.errors import EngineError

from .devices import Device
from .plan import Plan


@dataclass(frozen=True)
class Task:
    """One image to be made.

    guide: float32 [C, H, W] in [-1, 1]. mask: float32 [H, W] in [0, 1]. seed: 64 bits. image: 32 bits; with the seed it
    keys the noise.
    """

    plan: Plan
    guide: np.ndarray
    mask: np.ndarray
    seed: int
    image: int


@dataclass
class _Running:
    task: Task
    at: int = 0


class Loop:
    """Drives a device. Not thread-safe: one owner calls it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._running: dict[int, _Running] = {}

    @property
    def busy(self) -> bool:
        return bool(self._running)

    @property
    def full(self) -> bool:
        return len(self._running) == self._device.slots

    def admit(self, task: Task) -> None:
        """Put a task into a free slot; the loop must not be full."""
        slot = next(b for b in range(self._device.slots) if b not in self._running)
        plan = task.plan
        self._device.write(
            slot,
            {
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
            },
        )
        self._running[slot] = _Running(task)

    def step(self) -> list[tuple[Task, np.ndarray]]:
        """One step of every busy slot; the tasks that this finished, each with its float32 [C, H, W] result.

        Raises EngineError where a result is not finite.
        """
        if any(run.task.plan.rows["step"][run.at] == 0 for run in self._running.values()):
            self._device.begin()
        self._device.step()
        finished = []
        for slot, run in list(self._running.items()):
            run.at += 1
            if run.at == len(run.task.plan.rows):
                del self._running[slot]
                finished.append((run.task, self._collect(slot)))
        return finished

    def clear(self) -> None:
        """Drop what is running: every slot is idle again."""
        for slot in list(self._running):
            self._device.write(slot, {"row_count": np.uint32(0)})
            del self._running[slot]

    def _collect(self, slot: int) -> np.ndarray:
        x = self._device.read(slot, "x")
        if not np.isfinite(x).all():
            raise EngineError("the network returned values that are not finite; the result is not an image")
        return x
