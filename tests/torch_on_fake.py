"""torch's CPU on the fake driver's memory, in place of TorchOnGpu; its work runs in turn on the stream."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest
import torch
from fake_driver import FakeDriver

from sdedit.runtime.cuda import Gpu
from sdedit.runtime.engines import DeviceArray
from sdedit.runtime.engines import torch as torch_engine


class TorchOnFake:
    """Like engines.torch.TorchOnGpu."""

    device = "cpu"

    def __init__(self, driver: FakeDriver, gpu: Gpu) -> None:
        self._driver, self._stream = driver, gpu.stream

    def tensor(self, array: DeviceArray) -> Any:
        return torch.from_numpy(self._driver.memory.view(array.address, array.shape, array.dtype, "torch"))

    def enqueue(self, function: Callable[[], object]) -> None:
        def run() -> None:
            with self.active():
                function()

        self._driver.enqueue(self._stream, run)

    def active(self) -> AbstractContextManager[None]:
        return torch.inference_mode()


def use_torch_on(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let TorchEngine run on the fake driver."""
    monkeypatch.setattr(torch_engine, "TorchOnGpu", partial(TorchOnFake, driver))
