"""The memory of a device that is not there: an address space in which every access is checked.

A GPU answers a wrong address with whatever lies there, or with an error long afterwards. Here addresses are never
reused, allocations lie apart, what was never written is not readable, and two threads must not disagree about a byte.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
from numpy.typing import DTypeLike

BASE = 0x7F00_0000_0000
"""Address of the first byte: far from small integers, and beyond 32 bits, so that a truncated pointer is found out."""

GAP = 256
"""Bytes between two allocations, at the least, that nobody may touch."""

POISON = 0xCD

OUTSIDE, FREED, FRESH, WRITTEN = range(4)
"""States of a byte, in the order of what is allowed: from FRESH on it may be written, from WRITTEN on read."""

NOBODY = 0
"""In place of a thread's number, which counts from 1, as the writer of a byte."""

REASONS = {OUTSIDE: "out of bounds", FREED: "use after free", FRESH: "uninitialised"}


class DeviceFault(Exception):  # noqa: N818 - a fault is what devices have
    """A wrong access, which a real device reports late or never. The message names kernel, access and address."""


class DeviceMemory:
    """A device's global memory, for copies (`write`, `read`) and for the threads of kernels (`load`, `store`)."""

    def __init__(self, capacity: int = 1 << 27) -> None:
        """capacity: bytes of all allocations ever made. The host's memory is used only where it is touched."""
        self._data = np.zeros(capacity, np.uint8)
        self._state = np.zeros(capacity, np.uint8)  # OUTSIDE
        self._writer = np.zeros(capacity, np.int32)
        self._touched: list[np.ndarray] = []
        self._sizes: dict[int, int] = {}
        self._live: set[int] = set()
        self._top = 0
        self._who = "a kernel"

    def __contains__(self, address: int) -> bool:
        """Whether `address` is an address of the device, allocated or not."""
        return BASE <= address < BASE + self._data.size

    # The host's side.

    def alloc(self, nbytes: int, align: int = 256) -> int:
        """The address of fresh memory, poisoned and not readable until written."""
        if nbytes < 1:
            raise DeviceFault(f"allocation: {nbytes} bytes")
        start = -(-(self._top + GAP) // align) * align
        if start + nbytes + GAP > self._data.size:
            raise DeviceFault(f"allocation: {nbytes} bytes are more than is left of {self._data.size}")
        self._top = start + nbytes
        self._data[start : self._top] = POISON
        self._state[start : self._top] = FRESH
        self._sizes[BASE + start] = nbytes
        self._live.add(BASE + start)
        return BASE + start

    def free(self, address: int) -> None:
        if address not in self._live:
            raise DeviceFault(f"free: no live allocation starts at {address:#x}{self._place(address)}")
        self._live.remove(address)
        start = address - BASE
        self._state[start : start + self._sizes[address]] = FREED

    def write(self, address: int, array: np.ndarray, who: str = "copy to the device") -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        where = self._range(address, data.size, FRESH, who)
        self._data[where] = data
        self._state[where] = WRITTEN

    def read(self, address: int, shape: tuple[int, ...], dtype: DTypeLike, who: str = "copy to the host") -> np.ndarray:
        result = np.empty(shape, dtype)
        where = self._range(address, result.nbytes, WRITTEN, who)
        result.reshape(-1).view(np.uint8)[:] = self._data[where]
        return result

    def view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike, who: str) -> np.ndarray:
        """Allocated memory itself, for whoever computes on it in place. Later accesses through it are not checked."""
        kind = np.dtype(dtype)
        where = self._range(address, prod(shape) * kind.itemsize, FRESH, who)
        return self._data[where].view(kind).reshape(shape)

    # The kernel's side: lane i of the arrays is thread i of the grid.

    @contextmanager
    def running(self, kernel: str) -> Iterator[None]:
        """While the kernel `name` runs, faults carry its name, and its threads must not touch each other's bytes."""
        before = self._who
        self._who = kernel
        try:
            yield
        finally:
            self._who = before
            for index in self._touched:
                self._writer[index] = NOBODY
            self._touched.clear()

    def load(
        self, addresses: np.ndarray, dtype: DTypeLike, count: int = 1, mask: np.ndarray | None = None
    ) -> np.ndarray:
        """[threads, count] values, from consecutive places; zeros for threads that the mask leaves out."""
        dtype = np.dtype(dtype)
        result = np.zeros((addresses.size, count), dtype)
        threads, index = self._index(addresses, dtype.itemsize * count, mask, WRITTEN)
        self._check_order(threads, index)
        result[threads] = self._data[index].view(dtype)
        return result

    def store(self, addresses: np.ndarray, values: np.ndarray, mask: np.ndarray | None = None) -> None:
        """values: [threads, count]"""
        data = np.ascontiguousarray(values).view(np.uint8)
        threads, index = self._index(addresses, data.shape[1], mask, FRESH)
        data = data[threads]
        foreign = self._foreign(threads, index)
        self._check_race(foreign & (self._data[index] != data), index)
        self._data[index] = data
        self._check_race(self._data[index] != data, index)
        self._state[index] = WRITTEN
        self._writer[index] = threads[:, None] + 1
        self._touched.append(index)

    # Checks.

    def _range(self, address: int, nbytes: int, needed: int, who: str) -> slice:
        """Place of these bytes, all of which must be writable (needed is FRESH) or readable (WRITTEN)."""
        start = address - BASE
        if not 0 <= start <= self._data.size - nbytes:
            raise self._fault(who, OUTSIDE, needed, nbytes, address)
        states = self._state[start : start + nbytes]
        bad = np.flatnonzero(states < needed)
        if bad.size:
            raise self._fault(who, int(states[bad[0]]), needed, nbytes, address + int(bad[0]))
        return slice(start, start + nbytes)

    def _index(
        self, addresses: np.ndarray, nbytes: int, mask: np.ndarray | None, needed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The threads that take part, and [threads, nbytes] indices of their bytes, all of which may be accessed."""
        threads = np.arange(addresses.size) if mask is None else np.flatnonzero(mask)
        chosen = addresses[threads].astype(np.uint64)
        self._check_alignment(chosen, nbytes, needed)
        offsets = chosen - np.uint64(BASE)
        inside = offsets < self._data.size - nbytes
        offsets = np.where(inside, offsets, 0).astype(np.int64)  # the bytes at 0 are OUTSIDE
        index = offsets[:, None] + np.arange(nbytes)
        bad = np.argwhere(self._state[index] < needed)
        if bad.size:
            thread, byte = (int(i) for i in bad[0])
            state = int(self._state[index[thread, byte]])
            raise self._fault(self._who, state, needed, nbytes, int(chosen[thread]) + byte)
        return threads, index

    def _check_alignment(self, addresses: np.ndarray, nbytes: int, needed: int) -> None:
        bad = addresses[addresses % np.uint64(nbytes) != 0]
        if bad.size:
            raise DeviceFault(f"{self._who}: misaligned {_access(nbytes, needed)} at {int(bad[0]):#x}")

    def _foreign(self, threads: np.ndarray, index: np.ndarray) -> np.ndarray:
        """Bytes that another thread of this launch has written."""
        writer = self._writer[index]
        return (writer != NOBODY) & (writer != threads[:, None] + 1)

    def _check_order(self, threads: np.ndarray, index: np.ndarray) -> None:
        if self._touched:
            self._check(self._foreign(threads, index), index, "race: reads what another thread of the launch writes")

    def _check_race(self, conflict: np.ndarray, index: np.ndarray) -> None:
        self._check(conflict, index, "race: threads write different values")

    def _check(self, bad: np.ndarray, index: np.ndarray, what: str) -> None:
        if bad.any():
            address = BASE + int(index[bad][0])
            raise DeviceFault(f"{self._who}: {what} at {address:#x}{self._place(address)}")

    # Messages.

    def _fault(self, who: str, state: int, needed: int, nbytes: int, address: int) -> DeviceFault:
        return DeviceFault(f"{who}: {REASONS[state]} {_access(nbytes, needed)} at {address:#x}{self._place(address)}")

    def _place(self, address: int) -> str:
        """Position of the address in the last allocation that starts before it, live or freed."""
        start = max((start for start in self._sizes if start <= address), default=None)
        if start is None:
            return ", before any allocation"
        return f", byte {address - start} of the {self._sizes[start]} bytes at {start:#x}"


def _access(nbytes: int, needed: int) -> str:
    return f"{'read' if needed == WRITTEN else 'write'} of {nbytes} bytes"
