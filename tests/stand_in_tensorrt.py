"""Stand-in for the calls of tensorrt_rtx that the runtime makes, on the fake driver; a Python function is the network.

It asserts what the documentation asks of a caller: an engine of its own version, a context whose memory is given before
it runs, shapes and addresses told, a stream. REAL_NAMES are compared with the real package's, in a test.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_driver import FakeDriver, values

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.bundle.engines import read_engines
from sdedit.runtime.engines import DeviceArray, tensorrt

REAL_NAMES = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_execution_context",
        "create_runtime_config",
        "get_tensor_dtype",
        "get_tensor_name",
        "get_tensor_profile_shape",
        "get_tensor_shape",
        "num_io_tensors",
    ],
    "IRuntimeConfig": [
        "create_runtime_cache",
        "cuda_graph_strategy",
        "dynamic_shapes_kernel_specialization_strategy",
        "set_execution_context_allocation_strategy",
        "set_runtime_cache",
    ],
    "IRuntimeCache": ["deserialize", "serialize"],
    "IExecutionContext": [
        "execute_async_v3",
        "is_stream_capturable",
        "set_device_memory",
        "set_input_shape",
        "set_optimization_profile_async",
        "set_tensor_address",
        "update_device_memory_size_for_shapes",
    ],
    "CudaGraphStrategy": ["DISABLED"],
    "DynamicShapesKernelSpecializationStrategy": ["EAGER"],
    "ExecutionContextAllocationStrategy": ["USER_MANAGED"],
    "DataType": ["FLOAT", "INT64"],
}

SCRATCH = 4096
"""Bytes that its contexts ask for."""


class StandInTensorRt:
    """Stand-in for the module. compiled: number of compilations, which a cache avoids. most: largest sides it takes."""

    __name__ = "tensorrt_rtx"
    CudaGraphStrategy = SimpleNamespace(DISABLED="disabled")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    DataType = SimpleNamespace(FLOAT="float", INT64="int64")

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    def __init__(self, driver: FakeDriver, version: str, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self.__version__ = version
        self.driver = driver
        self.function = function
        self.most = (8, 8)
        self.capturable = True
        self.refuses = False
        self.compiled = 0

    def Runtime(self, logger: Any) -> Any:  # noqa: N802 - TensorRT's name
        def deserialize(data: bytes) -> "StandInEngine | None":
            if self.refuses:
                logger.log(self.ILogger.Severity.ERROR, "the plan is of\nanother version")
                return None
            assert data[:4] == b"vtrt"
            return StandInEngine(self)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class StandInEngine:
    shapes: dict[str, list[int]]

    def __init__(self, trt: StandInTensorRt) -> None:
        self.trt = trt
        sides = [8, 8] if trt.most == (8, 8) else [-1, -1]
        self.shapes = {"x": [-1, 3, *sides], "time": [-1], "out": [-1, 3, *sides]}
        self.num_io_tensors = 3

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_shape(self, name: str) -> list[int]:
        return self.shapes[name]

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("x", 0)
        return [(1, 3, 8, 8), (2, 3, 8, 8), (2, 3, *self.trt.most)]

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def create_runtime_config(self) -> "StandInConfig":
        return StandInConfig()

    def create_execution_context(self, config: "StandInConfig") -> "StandInContext":
        assert (config.cuda_graph_strategy, config.strategy) == ("disabled", "user")
        assert config.cache is not None
        self.trt.compiled += not config.cache.content
        config.cache.content = b"compiled"
        return StandInContext(self.trt)


class StandInConfig:
    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = strategy = ""
    cache: "StandInCache | None" = None

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> "StandInCache":
        return StandInCache()

    def set_runtime_cache(self, cache: "StandInCache") -> bool:
        self.cache = cache
        return True


class StandInCache:
    content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content


class StandInContext:
    def __init__(self, trt: StandInTensorRt) -> None:
        self.trt = trt
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.memory = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert stream
        return index == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == {"x", "time"}
        return SCRATCH

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert nbytes == SCRATCH
        assert address % 256 == 0
        self.memory = address

    def is_stream_capturable(self, stream: int) -> bool:
        return self.trt.capturable

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Enqueue with the addresses of this moment, which a graph keeps for later replays."""
        assert self.memory
        driver, memory, function = self.trt.driver, self.memory, self.trt.function
        x = DeviceArray(self.addresses["x"], self.shapes["x"])
        time, out = DeviceArray(self.addresses["time"], self.shapes["time"]), self.addresses["out"]

        def run() -> None:
            values(driver, time)
            driver.memory.write(memory, np.zeros(SCRATCH, np.uint8), "engine's scratch")
            driver.memory.write(out, function(values(driver, x)).astype(np.float32), "engine")

        driver.enqueue(stream, run)
        return True


def in_place_of_tensorrt(
    fake: FakeDriver,
    bundle: Bundle,
    function: Callable[[np.ndarray], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
) -> StandInTensorRt:
    """Let the runtime find a stand-in of the version that built the bundle's engines, and a cache of its own."""
    stand_in = StandInTensorRt(fake, read_engines(bundle)[0].version, function)
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda architecture: stand_in)
    monkeypatch.setenv("SDEDIT_CACHE", str(cache))
    return stand_in
