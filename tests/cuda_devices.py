"""The CUDA device on the fake driver, the CPU's beside it, and tasks for both."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from fake_driver import FakeDriver, StandInEngine
from stubs import Function, StubEngine

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


def make_device(
    fake: FakeDriver,
    bundle: Bundle,
    slots: int = 1,
    batch: int = 1,
    eager: bool = False,
    function: Function = mixing,
    index: int = 0,
) -> CudaDevice:
    return CudaDevice(Gpu(index), bundle, StandInEngine(fake, function, batch), slots, eager)


def on_cpu(bundle: Bundle, slots: int = 1, function: Function = mixing) -> CpuDevice:
    return CpuDevice(StubEngine(function), bundle.inputs, slots, twin(), bundle.null_label is not None)


def make_task(bundle: Bundle, image: int, size: tuple[int, int] | None = None, **plan: Any) -> Task:
    """A masked task, of the native size unless another is given; seed and guide depend on the image alone."""
    rng = np.random.default_rng(image)
    options = {"t0": 0.6, "steps": 4, "sampler": "ancestral"} | plan
    sides = bundle.state_shape[1:] if size is None else size
    guide = rng.uniform(-1, 1, (bundle.image.channels, *sides)).astype(np.float32)
    mask = rng.integers(0, 5, sides).astype(np.float32) / 4
    return Task(make_plan(bundle.schedule, bundle.prediction, **options), guide, mask, 2**63 + 11, image)


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x.view(np.uint32), y.view(np.uint32)) for x, y in zip(a, b, strict=True)
    )


def in_a_new_thread(function: Callable[[], None]) -> None:
    """cuda.core remembers each thread's devices, and what they can do."""
    failed: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive()
    if failed:
        raise failed[0]
