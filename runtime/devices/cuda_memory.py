"""The arrays of B slots in a GPU's memory, and the page-locked memory through which the host writes and reads them.

Addresses never change, since graphs hold them. Copies are in the order of the stream. The host waits only to read, and
before it overwrites memory that is still to be copied.
"""

import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from math import prod
from typing import Any

import numpy as np

from sdedit.errors import EngineError

from ..cuda import Gpu, OutOfMemory
from ..engines import DeviceArray
from .arrays import ArraySpecs

PLACE = 256
"""Alignment in bytes of the parts of the staging memory."""

STAGINGS = 4
"""Most slots whose new values may be on their way at once: each takes page-locked memory, a scarce kind."""

COMPUTED = ("x", "h", "o", "o_uncond")
"""Arrays that only the GPU writes."""


class CudaArrays:
    """specs: the arrays, each with the slots in front. buffers: their memory on the GPU by name, zeroed."""

    def __init__(self, gpu: Gpu, specs: ArraySpecs) -> None:
        """Raises EngineError, and keeps nothing, if the arrays do not fit into the GPU's or the host's memory."""
        self.specs = specs
        self.slots = specs["x"][0][0]
        self.buffers: dict[str, Any] = {}
        self._gpu = gpu
        self._held: list[Any] = []
        self._snapshots: list[tuple[Any, np.ndarray]] = []
        self._outstanding: weakref.WeakSet[Snapshot] = weakref.WeakSet()
        self._staging: list[tuple[Any, np.ndarray]] = []
        self._staged: list[Any] = []
        self._turn = 0
        try:
            with gpu.calls("to allocate"):
                self._allocate()
        except BaseException:
            self.close()
            raise

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> dict[str, np.ndarray]:
        """Enqueue copies of values into one slot's part of the arrays; returns them as contiguous arrays."""
        parts = {name: self._checked(name, value) for name, value in values.items()}
        turn, self._turn = self._turn, (self._turn + 1) % len(self._staging)
        with self._gpu.calls("in a copy to it"):
            if self._staged[turn] is not None:
                self._staged[turn].sync()
            buffer, host = self._staging[turn]
            at = 0
            for name, part in parts.items():
                host[at : at + part.nbytes] = part.reshape(-1).view(np.uint8)
                self._gpu.copy(self.buffers[name], slot * self.slot_bytes(name), buffer, at, part.nbytes)
                at += -(-part.nbytes // PLACE) * PLACE
            self._staged[turn] = self._gpu.record(self._staged[turn])
        return parts

    def read(self, slot: int, name: str) -> np.ndarray:
        """One slot's part of an array, after all work so far."""
        nbytes = self.slot_bytes(name)
        with self._gpu.calls("in mid-edit"):
            buffer, host = self._landing
            self._gpu.copy(buffer, 0, self.buffers[name], slot * nbytes, nbytes)
            self._gpu.wait()
            return self._values(name, host)

    def snapshot(self, slot: int, name: str) -> Callable[[], np.ndarray]:
        """Begin to copy one slot's part as it is now. Without page-locked memory for it the host waits instead."""
        nbytes = self.slot_bytes(name)
        try:
            memory = self._snapshots.pop() if self._snapshots else self._pinned(self._largest_bytes())
        except EngineError:
            values = self.read(slot, name)
            return lambda: values
        with self._gpu.calls("in mid-edit"):
            self._gpu.copy(memory[0], 0, self.buffers[name], slot * nbytes, nbytes)
            copied = self._gpu.record()
        snapshot = Snapshot(self._gpu, copied, lambda: self._values(name, memory[1]))
        weakref.finalize(snapshot, self._snapshots.append, memory)  # fetched or not, the next snapshot may use it
        self._outstanding.add(snapshot)
        return snapshot

    def part(self, name: str, first: int, slots: int) -> DeviceArray:
        """The memory of some consecutive slots, for an engine."""
        shape, dtype = self.specs[name]
        address = int(self.buffers[name].handle) + first * self.slot_bytes(name)
        return DeviceArray(address, (slots, *shape[1:]), dtype)

    def slot_bytes(self, name: str) -> int:
        return slot_bytes(self.specs, name)

    def close(self) -> None:
        """Free everything. Snapshots that nobody has fetched yet are fetched now."""
        for snapshot in list(self._outstanding):
            with suppress(EngineError):
                snapshot()
        self._staged = []
        self._gpu.free(*self._held)
        self._held, self._snapshots = [], []

    def _allocate(self) -> None:
        try:
            for name in self.specs:
                self.buffers[name] = self._gpu.allocate(self.slots * self.slot_bytes(name))
                self._held.append(self.buffers[name])
        except OutOfMemory as error:
            held = sum(self.slots * self.slot_bytes(name) for name in self.buffers)
            raise EngineError(too_large(self._gpu, self.specs, error.free + held)) from None
        self._staging = [self._pinned(self._staging_bytes()) for _ in range(min(self.slots, STAGINGS))]
        self._staged = [None] * len(self._staging)
        self._landing = self._pinned(self._largest_bytes())

    def _pinned(self, nbytes: int) -> tuple[Any, np.ndarray]:
        memory = self._gpu.allocate_pinned(nbytes)
        self._held.append(memory[0])
        return memory

    def _values(self, name: str, host: np.ndarray) -> np.ndarray:
        """A copy of what was copied to the beginning of the host's memory."""
        shape, dtype = self.specs[name]
        return host[: self.slot_bytes(name)].view(dtype).reshape(shape[1:]).copy()

    def _largest_bytes(self) -> int:
        """Size of the largest array of one slot that the host reads."""
        return max(self.slot_bytes(name) for name in self.specs if name != "rows")

    def _staging_bytes(self) -> int:
        """Size of all arrays of one slot that the host writes, aligned."""
        return sum(-(-self.slot_bytes(name) // PLACE) * PLACE for name in self.specs if name not in COMPUTED)

    def _checked(self, name: str, value: np.ndarray | np.generic) -> np.ndarray:
        """The value as a contiguous array. Raises ValueError unless it has the array's type and a slot's shape.

        Rows may be fewer.
        """
        if name in COMPUTED:
            raise ValueError(f"{name} of a slot is written by the GPU alone")
        shape, dtype = self.specs[name]
        part = np.ascontiguousarray(value).reshape(np.shape(value))
        fits = part.shape == shape[1:] or (name == "rows" and part.ndim == 1 and part.size <= shape[1])
        if part.dtype != dtype or not fits:
            raise ValueError(f"{name} of a slot is {dtype} {list(shape[1:])}, got {part.dtype} {list(part.shape)}")
        return part


class Snapshot:
    """A copy on its way to the host. Calling it waits for the copy, once."""

    def __init__(self, gpu: Gpu, copied: Any, values: Callable[[], np.ndarray]) -> None:
        self._gpu = gpu
        self._copied = copied
        self._fetch = values
        self._values: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._values is None:
            with self._gpu.calls("in mid-edit"):
                self._copied.sync()
                self._values = self._fetch()
        return self._values


def slot_bytes(specs: ArraySpecs, name: str) -> int:
    """Bytes of one slot's part of an array."""
    shape, dtype = specs[name]
    return prod(shape[1:]) * dtype.itemsize


def all_bytes(specs: ArraySpecs) -> int:
    """Bytes of one slot's part of all arrays."""
    return sum(slot_bytes(specs, name) for name in specs)


def too_large(gpu: Gpu, specs: ArraySpecs, free: int, tiles: int = 0) -> str:
    """The line about arrays that do not fit into the GPU's memory. free: bytes that it has for them.

    tiles: further bytes of each slot, for its tiles.
    """
    (slots, *image), each = specs["x"][0], all_bytes(specs) + tiles
    return (
        f"{gpu.name} is out of memory: {slots} slots of {'x'.join(map(str, image))} need {slots * each / 1e6:.1f} MB, "
        f"{free / 1e6:.1f} MB are free: {free // each} would fit"
    )
