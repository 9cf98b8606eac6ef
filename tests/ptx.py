"""Run PTX on a machine without a GPU: every thread of the grid is a lane of numpy arrays.

It executes the text that ships, from the packed parameters, in memory that checks every access. So it proves
addresses, masks, the parameters' layout and, bit for bit, the arithmetic; it says nothing about speed.

It runs only code whose result is known exactly: straight lines of predicated instructions of the table OPERATIONS.
Parsing refuses everything else. In particular float32 arithmetic must say .rn, because ptxas may fuse other arithmetic.
A result that is NaN is the one NaN of NVIDIA's float32 arithmetic.

Threads run in lock step. This does not restrict kernels without barriers whose threads do not communicate. Memory
checks that they do not, except for a store to a place that another thread loaded before.
"""

import numpy as np
from device_memory import DeviceFault, DeviceMemory
from ptx_operations import OPERATIONS, PREDICATE, TYPES, unsigned
from ptx_program import (
    Action,
    Compute,
    Guard,
    Instruction,
    Kernel,
    Literal,
    Load,
    LoadParameter,
    Register,
    Results,
    Scalar,
    Sources,
    Special,
    Store,
    UnsupportedPtx,
    parse,
    part_of,
)

__all__ = ["OPERATIONS", "TYPES", "Kernel", "UnsupportedPtx", "launch", "parse"]

GRID_LIMITS = (2**31 - 1, 65535, 65535)


def launch(kernel: Kernel, memory: DeviceMemory, grid: tuple[int, int, int], parameters: bytes) -> None:
    """Run the kernel on a grid of blocks. Raises DeviceFault for a wrong launch and for every fault in it."""
    if len(parameters) != kernel.param_bytes:
        raise DeviceFault(f"{kernel.name}: {len(parameters)} bytes of parameters, it takes {kernel.param_bytes}")
    if not all(1 <= size <= limit for size, limit in zip(grid, GRID_LIMITS, strict=True)):
        raise DeviceFault(f"{kernel.name}: a grid of {grid}, the limits are {GRID_LIMITS}")
    threads = _Threads(kernel, memory, grid, parameters)
    with memory.running(kernel.name), np.errstate(all="ignore"):
        for instruction in kernel.program:
            threads.execute(instruction)


class _Threads:
    """All threads of a launch: each register is an array, with one value for all threads or one per thread."""

    def __init__(self, kernel: Kernel, memory: DeviceMemory, grid: tuple[int, int, int], parameters: bytes) -> None:
        self.name = kernel.name
        self.count = grid[0] * grid[1] * grid[2] * kernel.threads
        self.memory = memory
        self.parameters = parameters
        self.special = _special_registers(kernel, grid)
        self.values: dict[str, np.ndarray] = {}
        self.unwritten: dict[str, np.ndarray] = {}
        """Register that was only written under predicates -> the threads that did not write it."""

    def execute(self, instruction: Instruction) -> None:
        try:
            active = self._active(instruction.guard)
            self._act(instruction.action, active)
        except DeviceFault as fault:
            raise DeviceFault(f"{fault}, in {instruction.text}") from None

    def _active(self, guard: Guard | None) -> np.ndarray | None:
        """The threads that take part; None for all."""
        if guard is None:
            return None
        predicate = self._read((guard.register,), PREDICATE, None)
        return ~predicate if guard.negated else predicate

    def _act(self, action: Action, active: np.ndarray | None) -> None:
        match action:
            case Compute():
                self._compute(action, active)
            case Load():
                self._load(action, active)
            case Store():
                self._store(action, active)
            case LoadParameter():
                self._load_parameter(action, active)

    def _compute(self, action: Compute, active: np.ndarray | None) -> None:
        operation = action.operation
        typed = zip(action.sources, operation.sources, strict=True)
        values = operation.compute(*(self._read(source, dtype, active) for source, dtype in typed))
        if len(action.results) > 1:
            part = part_of(values.dtype, len(action.results))
            values = np.ascontiguousarray(values).view(part)
        self._write(action.results, values.reshape(-1, len(action.results)), active)

    def _load_parameter(self, action: LoadParameter, active: np.ndarray | None) -> None:
        values = np.frombuffer(self.parameters, action.dtype, len(action.results), action.offset)
        self._write(action.results, values[None, :], active)

    def _load(self, action: Load, active: np.ndarray | None) -> None:
        addresses = self._addresses(action, active)
        values = self.memory.load(addresses, action.dtype, len(action.results), self._for_each(active))
        self._write(action.results, values, active)

    def _store(self, action: Store, active: np.ndarray | None) -> None:
        columns = [self._read((source,), action.dtype, active) for source in action.sources]
        values = np.stack([np.broadcast_to(column, self.count) for column in columns], axis=1)
        self.memory.store(self._addresses(action, active), values, self._for_each(active))

    def _addresses(self, action: Load | Store, active: np.ndarray | None) -> np.ndarray:
        base = self._read((action.base,), TYPES["u64"], active)
        return np.broadcast_to(base + np.uint64(action.offset % 2**64), self.count)

    def _for_each(self, active: np.ndarray | None) -> np.ndarray | None:
        return None if active is None else np.broadcast_to(active, self.count)

    def _read(self, sources: Sources, dtype: np.dtype, active: np.ndarray | None) -> np.ndarray:
        if len(sources) == 1:
            return self._value(sources[0], dtype, active)
        part = part_of(dtype, len(sources))
        columns = np.broadcast_arrays(*(self._value(source, part, active) for source in sources))
        return np.stack(columns, axis=1).view(dtype)[:, 0]

    def _value(self, source: Scalar, dtype: np.dtype, active: np.ndarray | None) -> np.ndarray:
        if isinstance(source, Literal):
            return source.value
        if isinstance(source, Special):
            return self.special[source.name].view(dtype)
        self._check_written(source.name, active)
        return _cut(self.values[source.name], dtype)

    def _check_written(self, name: str, active: np.ndarray | None) -> None:
        missing = self.unwritten.get(name)
        if missing is not None and active is not None:
            missing = missing & active
        if name not in self.values or (missing is not None and missing.any()):
            raise DeviceFault(f"{self.name}: reads {name}, which was not written")

    def _write(self, results: Results, values: np.ndarray, active: np.ndarray | None) -> None:
        """values: a column for each result"""
        for column, register in enumerate(results):
            if register is not None:
                extended = _extend(np.ascontiguousarray(values[:, column]), register.dtype)
                self._assign(register, extended, active)

    def _assign(self, register: Register, values: np.ndarray, active: np.ndarray | None) -> None:
        name = register.name
        if active is None:
            self.values[name] = values
            self.unwritten.pop(name, None)
            return
        old = self.values.get(name)
        if old is None:
            old = np.zeros(1, register.dtype)
            self.unwritten[name] = ~active
        elif name in self.unwritten:
            self.unwritten[name] = self.unwritten[name] & ~active
        self.values[name] = np.where(active, values, old)


def _special_registers(kernel: Kernel, grid: tuple[int, int, int]) -> dict[str, np.ndarray]:
    thread = np.arange(kernel.threads, dtype=np.uint32)
    block = np.arange(grid[0] * grid[1] * grid[2], dtype=np.uint32)
    special = {}
    for axis, inner in zip("xyz", range(3), strict=True):
        special[f"%tid.{axis}"] = np.tile(_along(thread, kernel.block, inner), block.size)
        special[f"%ctaid.{axis}"] = np.repeat(_along(block, grid, inner), thread.size)
        special[f"%ntid.{axis}"] = np.array([kernel.block[inner]], np.uint32)
        special[f"%nctaid.{axis}"] = np.array([grid[inner]], np.uint32)
    return special


def _along(number: np.ndarray, sizes: tuple[int, int, int], axis: int) -> np.ndarray:
    """Coordinates along one axis of numbers that count with x fastest."""
    stride = int(np.prod(sizes[:axis], dtype=np.int64))
    return number // np.uint32(stride) % np.uint32(sizes[axis])


def _cut(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The low bits of a register, viewed as the type."""
    if values.itemsize > dtype.itemsize:
        values = values.astype(unsigned(dtype.itemsize))
    return values.view(dtype)


def _extend(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The value as a register keeps it, extended by the sign if the type is signed."""
    return values.view(dtype) if values.itemsize == dtype.itemsize else values.astype(dtype)
