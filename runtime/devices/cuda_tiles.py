"""Engines of a GPU used from the host: one evaluation at a time, and states in tiles that the host blends."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from ..bundle import TensorSpec, resized
from ..cuda import Gpu
from ..engines import CudaEngine, DeviceArray, Enqueue, Evaluate, TiledEngine


class OnHost:
    """Implements engines.Engine on a CudaEngine: it copies to the GPU and back, and waits."""

    threads = 1

    def __init__(self, gpu: Gpu, engine: CudaEngine) -> None:
        self.name, self.precision = engine.name, engine.precision
        self.version, self.batch = engine.version, engine.batch
        self._gpu = gpu
        self._engine = engine
        self._held: list[Any] = []

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """Implements engines.Engine."""
        arrays = {**inputs, "out": out}
        with self._gpu.calls("to allocate"):
            there = {name: self._kept(self._gpu.allocate(array.nbytes)) for name, array in arrays.items()}
            here = {name: self._gpu.allocate_pinned(array.nbytes) for name, array in arrays.items()}
        self._held += [buffer for buffer, _ in here.values()]
        parts = {name: DeviceArray(int(there[name].handle), array.shape, array.dtype) for name, array in arrays.items()}
        enqueue = self._engine.bind({name: parts[name] for name in inputs}, parts["out"])

        def evaluate() -> None:
            with self._gpu.calls("to evaluate"):
                for name in inputs:
                    here[name][1][:] = arrays[name].reshape(-1).view(np.uint8)
                    self._gpu.copy(there[name], 0, here[name][0], 0, arrays[name].nbytes)
                enqueue(self._gpu.stream)
                self._gpu.copy(here["out"][0], 0, there["out"], 0, out.nbytes)
                self._gpu.wait()
                out.reshape(-1).view(np.uint8)[:] = here["out"][1]

        return evaluate

    def close(self) -> None:
        """Free its buffers; the engine stays."""
        self._gpu.free(*self._held)
        self._held = []

    def _kept(self, buffer: Any) -> Any:
        self._held.append(buffer)
        return buffer


class TiledCudaEngine:
    """Implements engines.CudaEngine for states that are evaluated in tiles, as the CPU device does, with its bits.

    The state goes to the host and each tile to the GPU and back, so a step waits and cannot be captured. It uses
    another engine, which it does not own. tile, multiple_of: see engines.TiledEngine.
    """

    capturable = False
    threads: int | None = None

    def __init__(self, gpu: Gpu, engine: CudaEngine, tile: int, multiple_of: int) -> None:
        self.name, self.precision = engine.name, engine.precision
        self.version, self.batch = engine.version, engine.batch
        self._gpu, self._engine = gpu, engine
        self._on_host = OnHost(gpu, engine)
        self._tiled = TiledEngine(self._on_host, tile, multiple_of)
        self._held: list[Any] = []

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine."""
        with self._gpu.calls("to allocate"):
            pinned = {name: self._gpu.allocate_pinned(array.nbytes) for name, array in {**inputs, "out": out}.items()}
        self._held += [buffer for buffer, _ in pinned.values()]
        addresses = {name: int(buffer.handle) for name, (buffer, _) in pinned.items()}
        host = {name: pinned[name][1].view(array.dtype).reshape(array.shape) for name, array in inputs.items()}
        found = pinned["out"][1].view(out.dtype).reshape(out.shape)
        evaluate = self._tiled.bind(host, found)

        def enqueue(stream: int) -> None:
            del stream  # the GPU has one
            for name, array in inputs.items():
                self._gpu.copy_addresses(addresses[name], array.address, array.nbytes)
            self._gpu.wait()  # the copy of the result before, too
            evaluate()
            self._gpu.copy_addresses(out.address, addresses["out"], out.nbytes)

        return enqueue

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Implements engines.CudaEngine. shape: of a tile."""
        self._engine.check_shape(shape)

    def forget(self, shape: tuple[int, ...]) -> None:
        """Implements engines.CudaEngine. shape: of a tile."""
        self._engine.forget(shape)

    def close(self) -> None:
        """Free its buffers; the engine stays."""
        self._on_host.close()
        self._gpu.free(*self._held)
        self._held = []


def tile_bytes(inputs: Mapping[str, TensorSpec], shape: tuple[int, ...], guided: bool) -> int:
    """Bytes on the GPU for a slot's tiles of that shape: the network's inputs and output, twice if it is guided."""
    specs = resized(inputs, shape)
    one = sum(prod(spec.shape) * spec.dtype.itemsize for spec in (*specs.values(), specs["x"]))
    return (2 if guided else 1) * one
