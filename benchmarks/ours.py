"""This project's runtime as a contender: its engine, its kernels, its loop. Imports nothing heavy."""

import time

import numpy as np

from sdedit.errors import EngineError
from sdedit.kernels import twin
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.lanes import make_lanes
from sdedit.runtime.engines import load_engine
from sdedit.runtime.loop import Loop, Task

from .case import Case, MissingError, Problem, Stopwatch


class Ours:
    """A contender (see case.Contender). Each image of the batch has a slot."""

    def __init__(self, case: Case, engine: str, precision: str) -> None:
        self.problem = Problem(case)
        try:
            self._engine = load_engine(self.problem.bundle, engine, precision, case.threads)
        except EngineError as error:
            # reports are shown to others: they name no folder of this machine
            message = str(error).replace(case.bundle, self.problem.bundle.name)
            # every machine and bundle has float32, so its lack is a failure
            raise (EngineError if precision == "float32" else MissingError)(message) from None
        self.version = f"{engine} {self._engine.version}"
        self.network = Stopwatch(time.perf_counter)
        lanes = make_lanes(self.problem.bundle, self._engine, case.batch)
        device = CpuDevice(self._engine, self.problem.bundle.inputs, case.batch, twin(), lanes=lanes)
        device.evaluate = self.network.around(device.evaluate)  # type: ignore[method-assign]
        self._loop = Loop(device)
        self._finished: dict[int, np.ndarray] = {}

    def predict(self, x: np.ndarray, time: float) -> np.ndarray:
        x, times, out = np.ascontiguousarray(x), np.array([time], np.float32), np.empty_like(x)
        self._engine.bind({"x": x, "time": times}, out)()
        return out

    def begin(self, steps: int, exact: bool = False) -> None:
        """Start an edit; its noise is the project's, exact or not."""
        self._loop.clear()
        self._finished.clear()
        problem, plan = self.problem, self.problem.plan(steps)
        for image in range(problem.case.batch):
            self._loop.admit(Task(plan, problem.guide, problem.mask, problem.case.seed, image))

    def step(self) -> None:
        for task, x in self._loop.step():
            self._finished[task.image] = x

    def done(self) -> bool:
        return not self._loop.busy

    def result(self) -> np.ndarray:
        return np.stack([self._finished[image] for image in sorted(self._finished)])
