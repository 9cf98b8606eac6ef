"""The CUDA device on the fake driver, the CPU's beside it, and tasks for both."""

from typing import Any

import numpy as np
from fake_driver import FakeDriver, StandInEngine
from stubs import StubEngine

from sdedit.kernels import twin
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.cuda.context import Gpu
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.devices.cuda import CudaDevice
from sdedit.runtime.loop import Task
from sdedit.runtime.plan import make_plan

WAIT = 60
"""Seconds after which a test that hangs fails instead."""

NOTHING = dict.fromkeys(("allocations", "streams", "events", "graphs", "executables", "host buffers"), 0)
"""Counts of fake_driver when all is freed. Loaded kernels are not counted: cuda.core never unloads one."""


def mixing(x: np.ndarray, told: float) -> np.ndarray:
    """A network whose output depends on every pixel and the level, so that a mixed-up slot or time shows."""
    return np.tanh(x + np.roll(x, 1, axis=3) - np.float32(told / 20))


def make_device(fake: FakeDriver, bundle: Bundle, slots: int = 1, batch: int = 1, eager: bool = False) -> CudaDevice:
    return CudaDevice(Gpu(), bundle, StandInEngine(fake, mixing, batch), slots, eager)


def on_cpu(bundle: Bundle, slots: int = 1) -> CpuDevice:
    return CpuDevice(StubEngine(mixing), bundle.inputs, slots, twin())


def make_task(bundle: Bundle, image: int, **plan: Any) -> Task:
    rng = np.random.default_rng(image)
    options = {"t0": 0.6, "steps": 4, "sampler": "ancestral"} | plan
    guide = rng.uniform(-1, 1, bundle.state_shape).astype(np.float32)
    mask = rng.integers(0, 5, bundle.state_shape[1:]).astype(np.float32) / 4
    return Task(make_plan(bundle.schedule, bundle.prediction, **options), guide, mask, 2**63 + 11, image)


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.view(np.uint32), y.view(np.uint32)) for x, y in zip(a, b, strict=True)
    )
