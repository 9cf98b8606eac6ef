"""Run PTX on a machine without a GPU: every thread of the grid is a lane of numpy arrays.

What is executed is the text that ships, from the packed parameters, in memory that checks every access. So this proves
addresses, masks, the parameters' layout and, bit for bit, the arithmetic; it says nothing of speed.

Only code whose result is known exactly is run: straight lines of predicated instructions, of the table OPERATIONS.
Anything else is refused when parsed. In particular float32 arithmetic must say .rn, for ptxas may fuse what does not.
Results that are NaN are the one NaN that NVIDIA's float32 arithmetic gives.

Threads run in lock step. That is no restriction for kernels without barriers whose threads do not communicate; memory
checks that they do not, except for a store to what another thread has loaded before.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from device_memory import DeviceFault, DeviceMemory


class UnsupportedPtx(Exception):  # noqa: N818 - says what the text is
    """PTX that this emulator does not understand exactly; the message has the instruction or directive."""


# Types: registers are kept as arrays of unsigned integers, predicates as booleans; instructions view them as they need.


def _unsigned(nbytes: int) -> np.dtype:
    return np.dtype(f"u{nbytes}")


TYPES = {"pred": np.dtype(bool), "f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
for _bits in (8, 16, 32, 64):
    TYPES[f"b{_bits}"] = TYPES[f"u{_bits}"] = _unsigned(_bits // 8)
    TYPES[f"s{_bits}"] = np.dtype(f"i{_bits // 8}")

U32 = TYPES["u32"]
F32 = TYPES["f32"]
PREDICATE = TYPES["pred"]

INTEGERS = "u16 u32 u64 s16 s32 s64"
SIGNED = "s16 s32 s64"
BITS = "b16 b32 b64"
SHORT = "u16 u32 s16 s32"
"""Integers of which numpy has the double width."""

NAN = {2: 0x7FFF, 4: 0x7FFFFFFF}
"""The bits of the NaN that arithmetic gives, by bytes of the type."""


# Operations: what an instruction computes from arrays, and of which types.


@dataclass(frozen=True)
class Operation:
    """widens: registers may be wider than the types; sources are cut to them, the result is extended by its sign."""

    result: np.dtype
    sources: tuple[np.dtype, ...]
    compute: Callable[..., np.ndarray]
    widens: bool = False


def _alike(sources: int, compute: Callable[..., np.ndarray]) -> Callable[[np.dtype], Operation]:
    """Operations whose result and sources all have the type of the suffix."""
    return lambda dtype: Operation(dtype, (dtype,) * sources, compute)


def _each(stem: str, suffixes: str, build: Callable[[np.dtype], Operation]) -> dict[str, Operation]:
    return {f"{stem}.{suffix}": build(TYPES[suffix]) for suffix in suffixes.split()}


def _canonical(values: np.ndarray) -> np.ndarray:
    """With the hardware's NaN in place of the host's."""
    nan = np.isnan(values)
    if not nan.any():
        return values
    bits = _unsigned(values.itemsize)
    return np.where(nan, bits.type(NAN[values.itemsize]), values.view(bits)).view(values.dtype)


def _rounded(compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A float operation of numpy, which rounds to nearest even as IEEE 754 and .rn do."""
    return lambda *sources: _canonical(compute(*sources))


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c with a single rounding, by way of float64.

    There the product is exact. The sum is rounded to odd, that is, an inexact sum whose last bit is even is replaced by
    its neighbour on the exact sum's other side: then rounding again, to float32, is as if from the exact sum.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    addend = c.astype(np.float64)
    total = product + addend
    rest = total - product
    error = (product - (total - rest)) + (addend - rest)
    even = total.view(np.uint64) & np.uint64(1) == 0
    neighbour = np.nextafter(total, np.copysign(np.inf, error))
    exact = (error == 0) | ~np.isfinite(total)
    return _canonical(np.where(even & ~exact, neighbour, total).astype(np.float32))


def _smaller(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The number where one is NaN, and -0 of two zeros."""
    least = (a.view(np.uint32) | b.view(np.uint32)).view(np.float32)
    return _canonical(np.where(a == b, least, np.fmin(a, b)))


def _larger(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    greatest = (a.view(np.uint32) & b.view(np.uint32)).view(np.float32)
    return _canonical(np.where(a == b, greatest, np.fmax(a, b)))


def _double(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"{dtype.kind}{2 * dtype.itemsize}")


def _wide_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    wide = _double(a.dtype)
    return a.astype(wide) * b.astype(wide)


def _high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (_wide_product(a, b) >> 8 * a.itemsize).astype(a.dtype)


def _wide(dtype: np.dtype) -> Operation:
    return Operation(_double(dtype), (dtype, dtype), _wide_product)


def _wide_sum(dtype: np.dtype) -> Operation:
    wide = _double(dtype)
    return Operation(wide, (dtype, dtype, wide), lambda a, b, c: _wide_product(a, b) + c)


def _shift(compute: Callable[..., np.ndarray]) -> Callable[[np.dtype], Operation]:
    """Shifts by the type's width or more leave nothing but zeros or, shifted right, the sign."""

    def clamped(values: np.ndarray, amount: np.ndarray) -> np.ndarray:
        last = 8 * values.itemsize - 1
        shifted = compute(values, np.minimum(amount, last).astype(values.dtype))
        return shifted if values.dtype.kind == "i" else np.where(amount > last, values.dtype.type(0), shifted)

    return lambda dtype: Operation(dtype, (dtype, U32), clamped)


def _compare(compute: Callable[..., np.ndarray]) -> Callable[[np.dtype], Operation]:
    return lambda dtype: Operation(PREDICATE, (dtype, dtype), compute)


def _unordered(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.isnan(a) | np.isnan(b)


ORDERS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}


def _comparisons() -> dict[str, Operation]:
    """Of floats, the plain ones are false where one is NaN, and those with a u are true."""
    table = _each("setp.nan", "f32", _compare(_unordered))
    table |= _each("setp.num", "f32", _compare(lambda a, b: ~_unordered(a, b)))
    for name, order in ORDERS.items():
        table |= _each(f"setp.{name}", BITS if name in ("eq", "ne") else "", _compare(order))
        table |= _each(f"setp.{name}", INTEGERS, _compare(order))
        table |= _each(f"setp.{name}", "f32", _compare(lambda a, b, order=order: order(a, b) & ~_unordered(a, b)))
        table |= _each(f"setp.{name}u", "f32", _compare(lambda a, b, order=order: order(a, b) | _unordered(a, b)))
    return table


def _conversion(result: str, source: str, modifier: str = "") -> dict[str, Operation]:
    dtype = TYPES[result]
    floats = dtype.kind == "f"

    def convert(values: np.ndarray) -> np.ndarray:
        converted = values.astype(dtype)
        return _canonical(converted) if floats else converted

    return {f"cvt{modifier}.{result}.{source}": Operation(dtype, (TYPES[source],), convert, widens=True)}


def _conversions() -> dict[str, Operation]:
    table = _conversion("f32", "f16") | _conversion("f16", "f32", ".rn")
    integers = [name for name in TYPES if name[0] in "us"]
    for source in integers:
        table |= _conversion("f32", source, ".rn")
        for result in integers:
            table |= _conversion(result, source)
    return table


def _same(values: np.ndarray) -> np.ndarray:
    return values


def _choose(a: np.ndarray, b: np.ndarray, which: np.ndarray) -> np.ndarray:
    return np.where(which, a, b)


def _choice(dtype: np.dtype) -> Operation:
    return Operation(dtype, (dtype, dtype, PREDICATE), _choose)


OPERATIONS: dict[str, Operation] = {
    **_each("add", INTEGERS, _alike(2, np.add)),
    **_each("sub", INTEGERS, _alike(2, np.subtract)),
    **_each("mul.lo", INTEGERS, _alike(2, np.multiply)),
    **_each("mul.hi", SHORT, _alike(2, _high_product)),
    **_each("mul.wide", SHORT, _wide),
    **_each("mad.lo", INTEGERS, _alike(3, lambda a, b, c: a * b + c)),
    **_each("mad.hi", SHORT, _alike(3, lambda a, b, c: _high_product(a, b) + c)),
    **_each("mad.wide", SHORT, _wide_sum),
    **_each("min", INTEGERS, _alike(2, np.minimum)),
    **_each("max", INTEGERS, _alike(2, np.maximum)),
    **_each("neg", SIGNED + " f32", _alike(1, np.negative)),
    **_each("abs", SIGNED + " f32", _alike(1, np.abs)),
    **_each("and", "pred " + BITS, _alike(2, np.bitwise_and)),
    **_each("or", "pred " + BITS, _alike(2, np.bitwise_or)),
    **_each("xor", "pred " + BITS, _alike(2, np.bitwise_xor)),
    **_each("not", "pred " + BITS, _alike(1, np.invert)),
    **_each("shl", BITS, _shift(np.left_shift)),
    **_each("shr", BITS + " " + INTEGERS, _shift(np.right_shift)),
    **_each("add.rn", "f32", _alike(2, _rounded(np.add))),
    **_each("sub.rn", "f32", _alike(2, _rounded(np.subtract))),
    **_each("mul.rn", "f32", _alike(2, _rounded(np.multiply))),
    **_each("div.rn", "f32", _alike(2, _rounded(np.divide))),
    **_each("sqrt.rn", "f32", _alike(1, _rounded(np.sqrt))),
    **_each("fma.rn", "f32", _alike(3, _fused)),
    **_each("min", "f32", _alike(2, _smaller)),
    **_each("max", "f32", _alike(2, _larger)),
    **_each("mov", "pred f32 f64 " + BITS + " " + INTEGERS, _alike(1, _same)),
    **_each("cvta.global", "u64", _alike(1, _same)),
    **_each("cvta.to.global", "u64", _alike(1, _same)),
    **_each("selp", "f32 f64 " + BITS + " " + INTEGERS, _choice),
    **_comparisons(),
    **_conversions(),
}

EVICTION_HINTS = {"L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate"}
CACHE_HINTS = {
    "ld.param": set(),
    "ld.global": {"ca", "cg", "cs", "cv", "lu", "nc", "L2::64B", "L2::128B", "L2::256B", *EVICTION_HINTS},
    "st.global": {"wb", "cg", "cs", "wt", *EVICTION_HINTS},
}
"""The accesses to memory, and their modifiers that change how fast they are, not what they do."""


# Programs: what `parse` makes of the text.


@dataclass(frozen=True)
class Register:
    name: str
    dtype: np.dtype


@dataclass(frozen=True)
class Special:
    """%tid.x and the like: 32 bits that the launch knows."""

    name: str


@dataclass(frozen=True)
class Literal:
    value: np.ndarray


Scalar = Register | Special | Literal

Sources = tuple[Scalar, ...]
"""One, or several side by side that make up a vector, the lowest bits first."""

Results = tuple[Register | None, ...]
"""In the same way; None where what would be written is dropped."""


@dataclass(frozen=True)
class Guard:
    """The predicate under which an instruction takes place, or unless."""

    register: Register
    negated: bool


@dataclass(frozen=True)
class Compute:
    operation: Operation
    results: Results
    sources: tuple[Sources, ...]


@dataclass(frozen=True)
class LoadParameter:
    dtype: np.dtype
    results: Results
    offset: int


@dataclass(frozen=True)
class Load:
    dtype: np.dtype
    results: Results
    base: Register
    offset: int


@dataclass(frozen=True)
class Store:
    dtype: np.dtype
    sources: Sources
    base: Register
    offset: int


Action = Compute | LoadParameter | Load | Store


@dataclass(frozen=True)
class Instruction:
    text: str
    guard: Guard | None
    action: Action


@dataclass(frozen=True)
class Kernel:
    """params: (name, offset, size) of each, in bytes. block: the threads of a block, along x, y and z."""

    name: str
    params: tuple[tuple[str, int, int], ...]
    param_bytes: int
    block: tuple[int, int, int]
    target: str
    version: str
    program: tuple[Instruction, ...]

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]


# Parsing.

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{]*)\{")
DIRECTIVE = re.compile(r"\.(\w+)\s+([\d,\s]+)")
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.global\s+)?(?:\.align\s+\d+\s+)?)?([\w$]+)(?:\[(\d+)\])?"
)
LINE_INFO_OR_LABEL = re.compile(r"^\s*(\.loc\b.*|[$\w]+:\s*)$", re.MULTILINE)
STATEMENT = re.compile(r"(?:@(!?)(%[\w$]+) )?([a-z][\w.:]*) ?(.*)")
DECLARATION = re.compile(r"\.reg \.(\w+) (.*)")
NUMBERED = re.compile(r"(%[\w$]+)<(\d+)>")
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
ADDRESS = re.compile(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+)\s*)?\]")
ACCESS = re.compile(r"(ld\.param|ld\.global|st\.global)((?:\.[\w:]+?)*?)(?:\.v([24]))?\.([bus]\d+|f32|f64)")
SPECIAL = re.compile(r"%(?:tid|ctaid|ntid|nctaid)\.[xyz]")
INTEGER = re.compile(r"-?(?:0x[0-9a-fA-F]+|0|[1-9]\d*)U?")
FLOAT_BITS = re.compile(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})")

HARMLESS = {"maxnreg", "minnctapersm"}
"""Directives of an entry that only guide the assembler."""


def parse(ptx: str, entry: str | None = None) -> Kernel:
    """The entry of that name, or the only one. Raises UnsupportedPtx for whatever is not known exactly."""
    text = COMMENT.sub(" ", ptx)
    found = _find_entry(text, entry)
    if _header(text, "address_size") != "64":
        raise UnsupportedPtx("addresses are not of 64 bits")
    params = _parse_parameters(found.group(2))
    body = text[found.end() : _closing_brace(text, found.end())]
    return Kernel(
        name=found.group(1),
        params=params,
        param_bytes=max((offset + size for _, offset, size in params), default=0),
        block=_parse_block(found.group(3)),
        target=_header(text, "target"),
        version=_header(text, "version"),
        program=_Body(body, params).program(),
    )


def _find_entry(text: str, entry: str | None) -> re.Match[str]:
    entries = {match.group(1): match for match in ENTRY.finditer(text)}
    if entry is None and len(entries) == 1:
        return next(iter(entries.values()))
    if entry not in entries:
        raise UnsupportedPtx(f"there is no one entry {entry or ''} among {sorted(entries)}")
    return entries[entry]


def _header(text: str, directive: str) -> str:
    found = re.search(rf"^\s*\.{directive}\s+(\S+)", text, re.MULTILINE)
    if not found:
        raise UnsupportedPtx(f"the directive .{directive} is missing")
    return found.group(1)


def _closing_brace(text: str, start: int) -> int:
    depth = 1
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace.group() == "{" else -1
        if depth == 0:
            return start + brace.start()
    raise UnsupportedPtx("the entry has no end")


def _parse_block(directives: str) -> tuple[int, int, int]:
    """The block's size: PTX must fix it, as the launch does not choose."""
    named = {match.group(1): match.group(2) for match in DIRECTIVE.finditer(directives)}
    size = named.pop("reqntid", None) or named.pop("maxntid", None)
    leftover = DIRECTIVE.sub("", directives).split() + sorted(named.keys() - HARMLESS - {"maxntid"})
    if size is None or leftover:
        raise UnsupportedPtx(f"an entry must have .reqntid or .maxntid, and not {' '.join(leftover)!r}")
    sizes = [int(n) for n in size.split(",")]
    x, y, z = sizes + [1] * (3 - len(sizes))
    return x, y, z


def _parse_parameters(text: str) -> tuple[tuple[str, int, int], ...]:
    """Every parameter lies at the next multiple of its alignment, which is its size unless the text says otherwise."""
    placed = []
    end = 0
    for declaration in filter(None, map(str.strip, text.split(","))):
        match = PARAMETER.fullmatch(declaration)
        if not match or match.group(2) not in TYPES:
            raise UnsupportedPtx(f"parameter {declaration!r}")
        item = TYPES[match.group(2)].itemsize
        align = int(match.group(1) or item)
        offset = -(-end // align) * align
        end = offset + item * int(match.group(4) or 1)
        placed.append((match.group(3), offset, end - offset))
    return tuple(placed)


class _Body:
    """The statements of an entry; registers are declared before they are used."""

    def __init__(self, text: str, params: tuple[tuple[str, int, int], ...]) -> None:
        statements = LINE_INFO_OR_LABEL.sub("", text).split(";")
        self.statements = [" ".join(statement.split()) for statement in statements]
        self.params = {name: (offset, size) for name, offset, size in params}
        self.registers: dict[str, Register] = {}

    def program(self) -> tuple[Instruction, ...]:
        """Everything but the `ret` at the end, the only one there may be."""
        for text in self.statements:
            if text.startswith(".reg "):
                self._declare(text)
        instructions = [text for text in self.statements if text and not text.startswith(".reg ")]
        if not instructions or instructions.pop() != "ret":
            raise UnsupportedPtx("the entry does not end with ret")
        return tuple(self._instruction(text) for text in instructions)

    def _declare(self, text: str) -> None:
        match = DECLARATION.fullmatch(text)
        if not match or match.group(1) not in TYPES:
            raise UnsupportedPtx(text)
        dtype = TYPES[match.group(1)]
        kept = dtype if dtype == PREDICATE else _unsigned(dtype.itemsize)
        for declared in match.group(2).split(","):
            numbered = NUMBERED.fullmatch(declared.strip())
            names = [numbered[1] + str(i) for i in range(int(numbered[2]))] if numbered else [declared.strip()]
            self.registers |= {name: Register(name, kept) for name in names}

    def _instruction(self, text: str) -> Instruction:
        match = STATEMENT.fullmatch(text)
        if not match:
            raise UnsupportedPtx(text)
        negated, predicate, opcode, operands = match.groups()
        try:
            action = self._action(opcode, [operand.strip() for operand in OPERAND.findall(operands)])
            guard = Guard(self._register(predicate, PREDICATE), negated == "!") if predicate else None
        except UnsupportedPtx as reason:
            raise UnsupportedPtx(f"{text}: {reason}") from None
        return Instruction(text, guard, action)

    def _action(self, opcode: str, operands: list[str]) -> Action:
        access = ACCESS.fullmatch(opcode)
        if access:
            return self._access(access, operands)
        operation = OPERATIONS.get(opcode)
        if operation is None:
            raise UnsupportedPtx(f"the exact result of {opcode} is not known")
        if len(operands) != 1 + len(operation.sources):
            raise UnsupportedPtx(f"{opcode} has {1 + len(operation.sources)} operands")
        if opcode in ("mov.b16", "mov.b32", "mov.b64"):
            return self._move(operation, *operands)
        return self._compute(operation, *operands)

    def _compute(self, operation: Operation, result: str, *sources: str) -> Compute:
        typed = zip(sources, operation.sources, strict=True)
        return Compute(
            operation,
            (self._register(result, operation.result, operation.widens),),
            tuple((self._scalar(source, dtype, operation.widens),) for source, dtype in typed),
        )

    def _move(self, operation: Operation, result: str, source: str) -> Compute:
        """Either side may be a vector, whose parts share the bits."""
        results = _parts(result)
        sources = _parts(source)
        return Compute(
            operation,
            self._results(results, _part_of(operation.result, len(results))),
            (self._sources(sources, _part_of(operation.result, len(sources))),),
        )

    def _access(self, match: re.Match[str], operands: list[str]) -> Action:
        opcode, hints, count, suffix = match.groups()
        unknown = set(hints.split(".")[1:]) - CACHE_HINTS[opcode]
        dtype = TYPES.get(suffix)
        if unknown or dtype is None or len(operands) != 2:
            raise UnsupportedPtx("not a plain access to memory")
        values, address = reversed(operands) if opcode == "st.global" else operands
        parts = _parts(values)
        if len(parts) != int(count or 1) or len(parts) * dtype.itemsize > 16:
            raise UnsupportedPtx(f"{values} is not what is accessed, or more than 16 bytes")
        base, offset = _address(address)
        if opcode == "ld.param":
            place = self._parameter(base, offset, len(parts) * dtype.itemsize)
            return LoadParameter(dtype, self._results(parts, dtype, widens=True), place)
        pointer = self._register(base, TYPES["u64"])
        if opcode == "ld.global":
            return Load(dtype, self._results(parts, dtype, widens=True), pointer, offset)
        return Store(dtype, self._sources(parts, dtype, widens=True), pointer, offset)

    def _parameter(self, name: str, offset: int, nbytes: int) -> int:
        if name not in self.params:
            raise UnsupportedPtx(f"parameter {name} is not declared")
        start, size = self.params[name]
        if not 0 <= offset <= size - nbytes:
            raise UnsupportedPtx(f"parameter {name} has {size} bytes")
        return start + offset

    def _results(self, parts: list[str], dtype: np.dtype, widens: bool = False) -> Results:
        return tuple(None if part == "_" else self._register(part, dtype, widens) for part in parts)

    def _sources(self, parts: list[str], dtype: np.dtype, widens: bool = False) -> Sources:
        return tuple(self._scalar(part, dtype, widens) for part in parts)

    def _scalar(self, text: str, dtype: np.dtype, widens: bool = False) -> Scalar:
        if SPECIAL.fullmatch(text) and dtype.kind in "ui" and dtype.itemsize == 4:
            return Special(text)
        if text.startswith("%"):
            return self._register(text, dtype, widens)
        return Literal(_literal(text, dtype))

    def _register(self, name: str, dtype: np.dtype, widens: bool = False) -> Register:
        register = self.registers.get(name)
        if register is None:
            raise UnsupportedPtx(f"{name} is not a declared register")
        of_a_kind = (register.dtype == PREDICATE) == (dtype == PREDICATE)
        wider = widens and dtype.kind != "f" and register.dtype.itemsize > dtype.itemsize
        if not of_a_kind or not (wider or register.dtype.itemsize == dtype.itemsize):
            raise UnsupportedPtx(f"{name} is not of the instruction's type")
        return register


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.strip("{}").split(",")]


def _part_of(dtype: np.dtype, count: int) -> np.dtype:
    if count not in (1, 2, 4) or count > dtype.itemsize:
        raise UnsupportedPtx(f"{count} parts do not make up {dtype.itemsize} bytes")
    return _unsigned(dtype.itemsize // count)


def _address(text: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(text)
    if not match:
        raise UnsupportedPtx(f"address {text}")
    return match.group(1), int(match.group(2) or 0)


def _literal(text: str, dtype: np.dtype) -> np.ndarray:
    """One value, which is that of every thread."""
    bits = FLOAT_BITS.fullmatch(text)
    if bits and dtype.itemsize == (4 if bits.group(1) else 8):
        return np.array([int(bits.group(1) or bits.group(2), 16)], _unsigned(dtype.itemsize)).view(dtype)
    if not INTEGER.fullmatch(text) or dtype.kind == "f":
        raise UnsupportedPtx(f"operand {text}")
    value = int(text.rstrip("U"), 0)
    if dtype == PREDICATE:
        return np.array([value != 0])
    return np.array([value % 2 ** (8 * dtype.itemsize)], _unsigned(dtype.itemsize)).view(dtype)


# Execution.

GRID_LIMITS = (2**31 - 1, 65535, 65535)


def launch(kernel: Kernel, memory: DeviceMemory, grid: tuple[int, int, int], parameters: bytes) -> None:
    """Run the kernel on that many blocks. Raises DeviceFault for a wrong launch and for whatever goes wrong in it."""
    if len(parameters) != kernel.param_bytes:
        raise DeviceFault(f"{kernel.name}: {len(parameters)} bytes of parameters, it takes {kernel.param_bytes}")
    if not all(1 <= size <= limit for size, limit in zip(grid, GRID_LIMITS, strict=True)):
        raise DeviceFault(f"{kernel.name}: a grid of {grid}, the limits are {GRID_LIMITS}")
    threads = _Threads(kernel, memory, grid, parameters)
    with memory.running(kernel.name), np.errstate(all="ignore"):
        for instruction in kernel.program:
            threads.execute(instruction)


class _Threads:
    """All threads of a launch: an array for each register, of one value for all threads or of one for each."""

    def __init__(self, kernel: Kernel, memory: DeviceMemory, grid: tuple[int, int, int], parameters: bytes) -> None:
        self.name = kernel.name
        self.count = grid[0] * grid[1] * grid[2] * kernel.threads
        self.memory = memory
        self.parameters = parameters
        self.special = _special_registers(kernel, grid)
        self.values: dict[str, np.ndarray] = {}
        self.unwritten: dict[str, np.ndarray] = {}
        """Of registers that were only written under predicates: in which threads they were not."""

    def execute(self, instruction: Instruction) -> None:
        try:
            active = self._active(instruction.guard)
            self._act(instruction.action, active)
        except DeviceFault as fault:
            raise DeviceFault(f"{fault}, in {instruction.text}") from None

    def _active(self, guard: Guard | None) -> np.ndarray | None:
        """Which threads take part; None for all."""
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
            part = _part_of(values.dtype, len(action.results))
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
        part = _part_of(dtype, len(sources))
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
        everywhere = name in self.values and name not in self.unwritten
        if everywhere:
            return
        missing = self.unwritten.get(name, np.array([True]))
        if active is None or (missing & active).any():
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
    """The coordinate along one axis of what is numbered with x running fastest."""
    stride = int(np.prod(sizes[:axis], dtype=np.int64))
    return number // np.uint32(stride) % np.uint32(sizes[axis])


def _cut(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The low bits of a register, seen as that type."""
    if values.itemsize > dtype.itemsize:
        values = values.astype(_unsigned(dtype.itemsize))
    return values.view(dtype)


def _extend(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """As a register keeps it, extended by the sign of signed types."""
    return values.view(dtype) if values.itemsize == dtype.itemsize else values.astype(dtype)
