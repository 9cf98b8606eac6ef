"""A network made of a Python function, and a loop around it."""

from collections.abc import Callable, Mapping

import numpy as np

from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, network_inputs, read_bundle
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import Evaluate
from sdedit.runtime.loop import Loop, Task

Function = Callable[..., np.ndarray]
"""x [1, C, H, W], time, and the other inputs [1, ...] in the order of their names -> out of x's shape"""


class StubEngine:
    """An engine whose network is `function`; `calls` records the times of its calls."""

    name, precision, version = "stub", "float32", "0"
    batch = threads = 1

    def __init__(self, function: Function) -> None:
        self.function = function
        self.calls: list[float] = []

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        x, time = inputs["x"], inputs["time"]
        others = [inputs[name] for name in sorted(inputs.keys() - {"x", "time"})]

        def evaluate() -> None:
            self.calls.append(float(time[0]))
            out[:] = self.function(x, float(time[0]), *others)

        return evaluate


def stub_loop(function: Function, shape: tuple[int, int, int], slots: int = 1, kernels: str = "auto") -> Loop:
    return Loop(CpuDevice(StubEngine(function), network_inputs(shape), slots, twin(kernels)))


def stub_editor(function: Function, slots: int = 1) -> Editor:
    """An editor whose bundle is the shipped one, and whose network is `function`."""
    bundle = read_bundle(SHIPPED)
    return Editor(bundle, CpuDevice(StubEngine(function), bundle.inputs, slots, twin()))


def run(loop: Loop, tasks: list[Task]) -> list[np.ndarray]:
    """Run tasks, which differ in (seed, image); returns their results in order."""
    waiting = list(tasks)
    results = {}
    while waiting or loop.busy:
        while waiting and not loop.full:
            loop.admit(waiting.pop(0))
        for task, x in loop.step():
            results[task.seed, task.image] = x
    return [results[task.seed, task.image] for task in tasks]
