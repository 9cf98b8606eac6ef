"""Small computations whose bits are the same on every machine: noise, and whole edits on a device."""

import hashlib
from collections.abc import Mapping

import numpy as np

from sdedit.kernels import Twin
from sdedit.kernels.layout import KIND_STEP

from ..bundle import network_inputs
from ..devices.cpu import CpuDevice
from ..engines import Evaluate
from ..loop import Device, Loop, Task
from ..plan import make_plan
from ..schedule import Schedule

SHAPE = (3, 16, 16)
"""C, H, W of the edited images."""

NOISE = "74f0d667e31ba632b0d0d6c632f89bd1bcb420af12d1d830768d94b9e534de5f"
"""sha256 of the array that `noise` returns."""

HALVED = "e3b7465f2c8a682b262412e0a10add2ad97987aba7f208feb8a7ca165b2ea3fc"
"""sha256 of the array that `halved_edit` returns."""

COPIED = "4471c6b58e9d6a41df842b400358f055dbcbf4c1d2a1cc74a73a3f05847a8d88"
"""sha256 of the array that `copied_edits` returns."""


def digest(values: np.ndarray) -> str:
    """sha256 of the values as little-endian float32."""
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()


def noise(kernels: Twin) -> np.ndarray:
    """4096 normals, float32."""
    return np.asarray(kernels.normal(0x0123456789ABCDEF, 3, 1, 7, KIND_STEP, 4096))


def halved_edit(kernels: Twin) -> np.ndarray:
    """A masked edit of 2 repeats by 5 steps with the network o = x / 2, on the CPU; float32 SHAPE."""
    return run_edits(CpuDevice(Halving(), network_inputs(SHAPE), 1, kernels), [task(7, 5, "fresh")])[0]


def copied_edits(device: Device) -> np.ndarray:
    """Two masked edits of 2 repeats on a device of 2 slots whose network is o = x; float32 [2, *SHAPE].

    The second keeps its begin noise, which another kernel does on a GPU. The device is closed.
    """
    return run_edits(device, [task(0, 5, "fresh"), task(1, 4, "fixed")])


def run_edits(device: Device, tasks: list[Task]) -> np.ndarray:
    """The tasks side by side, each in a slot; their results in order."""
    loop = Loop(device)
    try:
        for one in tasks:
            loop.admit(one)
        results: dict[Task, np.ndarray] = {}
        while loop.busy:
            results.update(loop.step())
    finally:
        loop.close()
    return np.stack([results[one] for one in tasks])


def task(image: int, steps: int, keep: str) -> Task:
    """Ancestral on a flow's schedule: its coefficients need no function but the square root, which IEEE defines."""
    part = np.arange(1, 21) / 20
    schedule = Schedule(np.stack([1 - part / 2, part, part], axis=1))
    plan = make_plan(schedule, "x0", t0=0.9, steps=steps, sampler="ancestral", repeats=2, keep=keep)
    guide = (np.arange(768, dtype=np.float32) / 384 - 1).reshape(SHAPE)
    mask = (np.arange(256, dtype=np.float32) / 255).reshape(SHAPE[1:])
    return Task(plan, guide, mask, seed=2**64 - 1, image=image)


class Halving:
    """An engine whose network is o = x / 2."""

    name, precision, version = "halving", "float32", "1"
    batch = threads = 1

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        def evaluate() -> None:
            np.multiply(inputs["x"], np.float32(0.5), out=out)

        return evaluate
