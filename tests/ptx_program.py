"""Parse PTX text into a program of known instructions; everything that is not known exactly is refused here."""

import functools
import re
from dataclasses import dataclass

import numpy as np
from ptx_operations import CACHE_HINTS, OPERATIONS, PREDICATE, TYPES, Operation, unsigned


class UnsupportedPtx(Exception):  # noqa: N818 - says what the text is
    """PTX that this emulator does not understand exactly; the message has the instruction or directive."""


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
    """The predicate of an instruction, and whether it must be true or false."""

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
    """A parsed kernel. params: (name, offset, size) of each, in bytes. block: threads of a block along x, y and z."""

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


@functools.cache
def parse(ptx: str, entry: str | None = None) -> Kernel:
    """Parse the entry of that name, or the only one. Raises UnsupportedPtx for everything not known exactly."""
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
        """The statements without the `ret` at the end, the only one that is allowed."""
        for text in self.statements:
            if text.startswith(".reg "):
                self._declare(text)
        statements = [text for text in self.statements if text and not text.startswith(".reg ")]
        program = tuple(self._instruction(text) for text in statements[:-1])
        if statements[-1:] != ["ret"]:
            raise UnsupportedPtx(f"the entry ends with {statements[-1:]}, not with ret")
        return program

    def _declare(self, text: str) -> None:
        match = DECLARATION.fullmatch(text)
        if not match or match.group(1) not in TYPES:
            raise UnsupportedPtx(text)
        dtype = TYPES[match.group(1)]
        kept = dtype if dtype == PREDICATE else unsigned(dtype.itemsize)
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
            self._results(results, part_of(operation.result, len(results))),
            (self._sources(sources, part_of(operation.result, len(sources))),),
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


def part_of(dtype: np.dtype, count: int) -> np.dtype:
    if count not in (1, 2, 4) or count > dtype.itemsize:
        raise UnsupportedPtx(f"{count} parts do not make up {dtype.itemsize} bytes")
    return unsigned(dtype.itemsize // count)


def _address(text: str) -> tuple[str, int]:
    match = ADDRESS.fullmatch(text)
    if not match:
        raise UnsupportedPtx(f"address {text}")
    return match.group(1), int(match.group(2) or 0)


def _literal(text: str, dtype: np.dtype) -> np.ndarray:
    """One value, which is that of every thread."""
    bits = FLOAT_BITS.fullmatch(text)
    if bits and dtype.itemsize == (4 if bits.group(1) else 8):
        return np.array([int(bits.group(1) or bits.group(2), 16)], unsigned(dtype.itemsize)).view(dtype)
    if not INTEGER.fullmatch(text) or dtype.kind == "f":
        raise UnsupportedPtx(f"operand {text}")
    value = int(text.rstrip("U"), 0)
    if dtype == PREDICATE:
        return np.array([value != 0])
    return np.array([value % 2 ** (8 * dtype.itemsize)], unsigned(dtype.itemsize)).view(dtype)
