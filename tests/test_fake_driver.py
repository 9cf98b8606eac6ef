"""The fake driver itself, where a mistake in it would end the process."""

import ctypes
import gc

import numpy as np
from cuda_devices import NOTHING, make_device, make_task
from fake_driver import FakeDriver

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.loop import Loop


def test_a_device_may_outlive_its_driver(fake_library: ctypes.CDLL, bundle_with_kernels: Bundle) -> None:
    """A traceback may keep a device with work in flight: its end runs nothing and is not counted by the next driver."""
    kernels = bundle_with_kernels.path / "kernels"
    driver = FakeDriver(fake_library, kernels)
    device = make_device(driver, bundle_with_kernels)
    loop = Loop(device)
    loop.admit(make_task(bundle_with_kernels, 0, steps=6))
    loop.step()
    loop.step()
    device.write(0, {"guide": np.zeros(bundle_with_kernels.state_shape, np.float32)})
    assert driver.counts() != NOTHING
    driver.stop()
    after = FakeDriver(fake_library, kernels)
    del driver, device, loop
    gc.collect()
    assert after.counts() == NOTHING
    assert after.fault is None
    after.stop()
