"""The PTX emulator against plain Python integers, exact fractions and numpy, and its memory against wrong accesses."""

import functools
import itertools
import math
import operator
import tempfile
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import ptx
import pytest
import triton
import triton.language as tl
from device_memory import GAP, DeviceFault, DeviceMemory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ptx import TYPES, UnsupportedPtx

HEADER = ".version 7.4\n.target sm_75\n.address_size 64\n"

REGISTERS = """
.reg .pred %p<8>;
.reg .b16 %h<8>;
.reg .b32 %r<16>;
.reg .b64 %d<16>;
"""


def module(body: str, params: tuple[str, ...] = ("u64", "u64"), threads: str = "4") -> str:
    """A kernel `test` with those parameters p0, p1, ... and those threads in a block."""
    declared = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(params))
    return f"{HEADER}.visible .entry test({declared})\n.reqntid {threads}\n{{\n{REGISTERS}\n{body}\nret;\n}}\n"


def pack(*addresses: int) -> bytes:
    return np.array(addresses, np.uint64).tobytes()


def upload(memory: DeviceMemory, array: np.ndarray) -> int:
    address = memory.alloc(array.nbytes)
    memory.write(address, array)
    return address


# One instruction: every thread, which is a block, loads its sources, computes and stores.

LOAD = """
ld.param.u64 %d0, [p{i}];
mad.wide.u32 %d0, %r0, {size}, %d0;
ld.global.{kind} %x{i}, [%d0];
"""

LOAD_PREDICATE = """
ld.param.u64 %d0, [p{i}];
mad.wide.u32 %d0, %r0, 4, %d0;
ld.global.u32 %r1, [%d0];
setp.ne.u32 %x{i}, %r1, 0;
"""

STORE = """
ld.param.u64 %d1, [p{i}];
mad.wide.u32 %d1, %r0, {size}, %d1;
st.global.{kind} [%d1], %y;
"""

STORE_PREDICATE = """
ld.param.u64 %d1, [p{i}];
mad.wide.u32 %d1, %r0, 4, %d1;
selp.u32 %r1, 1, 0, %y;
st.global.u32 [%d1], %r1;
"""

REGISTER = {"u8": "u16", "s8": "s16"}
"""Registers have 16 bits at the least."""

IN_MEMORY = {"pred": "u32", "f16": "b16"}
"""As what values of a type are loaded and stored."""


def evaluate(opcode: str, result: str, *sources: tuple[str, Any]) -> np.ndarray:
    """What the instruction gives for each of the values; sources: (type, values). Predicates are 0 and 1 of u32."""
    columns = [np.array(values, TYPES["u32" if kind == "pred" else kind]) for kind, values in sources]
    memory = DeviceMemory(1 << 18)
    addresses = [upload(memory, column) for column in columns]
    out = memory.alloc(8 * columns[0].size)
    kernel = ptx.parse(one_instruction(opcode, result, [kind for kind, _ in sources]))
    ptx.launch(kernel, memory, (columns[0].size, 1, 1), pack(*addresses, out))
    return memory.read(out, columns[0].shape, TYPES["u32" if result == "pred" else result])


def one_instruction(opcode: str, result: str, sources: list[str]) -> str:
    body = "mov.u32 %r0, %ctaid.x;"
    for i, kind in enumerate(sources):
        body += f".reg .{REGISTER.get(kind, kind)} %x{i};"
        body += access(LOAD_PREDICATE if kind == "pred" else LOAD, i, kind)
    body += f".reg .{REGISTER.get(result, result)} %y;"
    body += f"{opcode} %y, {', '.join(f'%x{i}' for i in range(len(sources)))};"
    body += access(STORE_PREDICATE if result == "pred" else STORE, len(sources), result)
    return module(body, ("u64",) * (len(sources) + 1), "1")


def access(text: str, i: int, kind: str) -> str:
    return text.format(i=i, size=TYPES[kind].itemsize, kind=IN_MEMORY.get(kind, kind))


# Integers, as Python has them: without bounds. `wrap` brings them back into their type. Predicates have one bit.

INTEGERS = ("u16", "u32", "u64", "s16", "s32", "s64")
SHORT = ("u16", "u32", "s16", "s32")
SIGNED = ("s16", "s32", "s64")
BITS = ("b16", "b32", "b64")
CONVERTIBLE = ("u8", "s8", *INTEGERS)

Case = tuple[str, list[str], Callable[..., int]]
"""Types of the result and of the sources, and what the instruction means."""

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    name: getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")
}


def width(kind: str) -> int:
    return 1 if kind == "pred" else int(kind[1:])


def wrap(value: int, kind: str) -> int:
    value %= 2 ** width(kind)
    return value - 2 ** width(kind) if kind[0] == "s" and value >= 2 ** (width(kind) - 1) else value


def arithmetic(kind: str) -> dict[str, Case]:
    return {
        f"add.{kind}": (kind, [kind] * 2, operator.add),
        f"sub.{kind}": (kind, [kind] * 2, operator.sub),
        f"mul.lo.{kind}": (kind, [kind] * 2, operator.mul),
        f"mad.lo.{kind}": (kind, [kind] * 3, lambda a, b, c: a * b + c),
        f"min.{kind}": (kind, [kind] * 2, min),
        f"max.{kind}": (kind, [kind] * 2, max),
    }


def products(kind: str) -> dict[str, Case]:
    bits = width(kind)
    wide = kind[0] + str(2 * bits)
    return {
        f"mul.hi.{kind}": (kind, [kind] * 2, lambda a, b: a * b >> bits),
        f"mad.hi.{kind}": (kind, [kind] * 3, lambda a, b, c: (a * b >> bits) + c),
        f"mul.wide.{kind}": (wide, [kind] * 2, operator.mul),
        f"mad.wide.{kind}": (wide, [kind, kind, wide], lambda a, b, c: a * b + c),
    }


def bitwise(kind: str) -> dict[str, Case]:
    return {
        f"and.{kind}": (kind, [kind] * 2, operator.and_),
        f"or.{kind}": (kind, [kind] * 2, operator.or_),
        f"xor.{kind}": (kind, [kind] * 2, operator.xor),
        f"not.{kind}": (kind, [kind], operator.invert),
    }


def right_shift(kind: str) -> dict[str, Case]:
    return {f"shr.{kind}": (kind, [kind, "u32"], lambda a, n: a >> n)}


def left_shift(kind: str) -> dict[str, Case]:
    return {f"shl.{kind}": (kind, [kind, "u32"], lambda a, n: a << min(n, 64))}


def signs(kind: str) -> dict[str, Case]:
    return {f"neg.{kind}": (kind, [kind], operator.neg), f"abs.{kind}": (kind, [kind], abs)}


def moves(kind: str) -> dict[str, Case]:
    return {
        f"mov.{kind}": (kind, [kind], lambda a: a),
        f"selp.{kind}": (kind, [kind, kind, "pred"], lambda a, b, which: a if which else b),
    }


def comparisons(kind: str) -> dict[str, Case]:
    names = ("eq", "ne") if kind[0] == "b" else ORDERS
    return {f"setp.{name}.{kind}": ("pred", [kind] * 2, ORDERS[name]) for name in names}


def conversions(source: str) -> dict[str, Case]:
    return {f"cvt.{result}.{source}": (result, [source], lambda a: a) for result in CONVERTIBLE}


CASES: dict[str, Case] = {
    "mov.pred": ("pred", ["pred"], lambda a: a),
    "cvta.global.u64": ("u64", ["u64"], lambda a: a),
    "cvta.to.global.u64": ("u64", ["u64"], lambda a: a),
}
for _build, _kinds in {
    arithmetic: INTEGERS,
    products: SHORT,
    bitwise: ("pred", *BITS),
    right_shift: (*BITS, *INTEGERS),
    left_shift: BITS,
    signs: SIGNED,
    moves: (*BITS, *INTEGERS),
    comparisons: (*BITS, *INTEGERS),
    conversions: CONVERTIBLE,
}.items():
    for _kind in _kinds:
        CASES |= _build(_kind)


def edges(kind: str) -> list[int]:
    """The ends and the middle of the type, and amounts around the widths to shift by."""
    half = 2 ** (width(kind) // 2)
    top = 2 ** (width(kind) - 1)
    near = [0, 1, 2, -1, -2, half - 1, half, top - 1, top, top + 1, 16, 31, 32, 40, 64]
    return sorted({wrap(value, kind) for value in near})


def integers(kind: str) -> st.SearchStrategy[int]:
    ends = edges(kind)
    return st.sampled_from(ends) | st.integers(ends[0], ends[-1])


def check_integers(opcode: str, rows: list[tuple[int, ...]]) -> None:
    result, kinds, meaning = CASES[opcode]
    sources = zip(kinds, zip(*rows, strict=True), strict=True)
    assert evaluate(opcode, result, *sources).tolist() == [wrap(meaning(*row), result) for row in rows]


@pytest.mark.parametrize("opcode", CASES)
def test_integers_at_all_combinations_of_edges(opcode: str) -> None:
    check_integers(opcode, list(itertools.product(*map(edges, CASES[opcode][1]))))


@settings(max_examples=300)
@given(st.sampled_from(sorted(CASES)), st.data())
def test_integers(opcode: str, data: st.DataObject) -> None:
    row = st.tuples(*map(integers, CASES[opcode][1]))
    check_integers(opcode, data.draw(st.lists(row, min_size=1, max_size=16)))


def test_every_operation_is_tested() -> None:
    assert set(ptx.OPERATIONS) == set(CASES) | FLOAT_OPCODES


def test_shifts_by_the_width_or_more_leave_zeros_or_the_sign() -> None:
    amounts = [31, 32, 40, 2**32 - 1]
    assert evaluate("shr.s32", "s32", ("s32", [-(2**31)] * 4), ("u32", amounts)).tolist() == [-1] * 4
    assert evaluate("shr.u32", "u32", ("u32", [2**31] * 4), ("u32", amounts)).tolist() == [1, 0, 0, 0]
    assert evaluate("shl.b32", "b32", ("b32", [1] * 4), ("u32", amounts)).tolist() == [2**31, 0, 0, 0]


def test_conversions_cut_and_extend_registers() -> None:
    """A source wider than its type gives its low bits; a result narrower than its register is extended by its sign."""
    body = """
    mov.b64 %d1, 0x1FFFFFF80;
    cvt.s8.u64 %r1, %d1;
    cvt.u8.u64 %r2, %d1;
    cvt.s32.s8 %r3, %d1;
    ld.param.u64 %d2, [p0];
    st.global.v2.b32 [%d2], {%r1, %r2};
    st.global.b32 [%d2 + 8], %r3;
    """
    assert run(body, np.int32, 3, threads="1") == [-128, 128, -128]


# Floats, as fractions: exact, then rounded once.

FLOAT_OPCODES = {
    *(f"{name}.rn.f32" for name in ("add", "sub", "mul", "div", "sqrt", "fma")),
    *(f"{name}.f32" for name in ("neg", "abs", "min", "max", "setp.nan", "setp.num")),
    *(f"setp.{name}{unordered}.f32" for name in ORDERS for unordered in ("", "u")),
    *(f"{name}.{kind}" for name in ("mov", "selp") for kind in ("f32", "f64")),
    *(f"cvt.rn.f32.{kind}" for kind in CONVERTIBLE),
    "cvt.rn.f16.f32",
    "cvt.f32.f16",
}


def nearest(value: Fraction, precision: int = 24, lowest: int = -149) -> Fraction:
    """The closest multiple of a power of two with that many bits, even on a tie; float32 unless told."""
    if value == 0:
        return value
    exponent = math.frexp(abs(value.numerator) / 2 ** value.numerator.bit_length())[1]
    exponent += value.numerator.bit_length() - value.denominator.bit_length() - precision - 1
    while abs(value) >= Fraction(2) ** (exponent + precision):
        exponent += 1
    unit = Fraction(2) ** max(exponent, lowest)
    return round(value / unit) * unit


def same_number(result: float, exact: Fraction, precision: int = 24, lowest: int = -149, top: int = 128) -> bool:
    rounded = nearest(exact, precision, lowest)
    if abs(rounded) >= 2**top:
        return result == math.copysign(math.inf, rounded)
    return math.isfinite(result) and Fraction(result) == rounded


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1.0, 1 + 2.0**-23, 1 - 2.0**-24, 2.0**-149, 2.0**-126 - 2.0**-149, 2.0**-126, 3.4028234663852886e38]
)


def rows_of(*columns: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    return st.lists(st.tuples(*columns), min_size=1, max_size=16)


FLOAT_BINARY: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
}


@pytest.mark.parametrize("name", FLOAT_BINARY)
@given(rows=rows_of(FINITE, FINITE))
def test_float_arithmetic_is_exact_then_rounded(name: str, rows: list[tuple[float, float]]) -> None:
    rows = [(a, b or 1.0) for a, b in rows]
    a, b = zip(*rows, strict=True)
    results = evaluate(f"{name}.rn.f32", "f32", ("f32", a), ("f32", b)).tolist()
    for result, row in zip(results, rows, strict=True):
        assert same_number(result, FLOAT_BINARY[name](*map(Fraction, row)))


TIE_BROKEN_BELOW = (2.0**-12 * (1 + 2.0**-15), 2.0**-12 * (1 - 2.0**-15), 1 + 2.0**-23)
"""The sum lies 2^-54 below a tie of float32, where float64 sees the tie."""


@given(rows_of(FINITE, FINITE, FINITE))
@example([TIE_BROKEN_BELOW])
@example([(2.0**-75, 1.5 * 2.0**-75, 2.0**-149), (2.0**-100, 2.0**-100, 1.0), (-(2.0**-100), 2.0**-100, 1.0)])
def test_fused_multiply_add_rounds_once(rows: list[tuple[float, float, float]]) -> None:
    a, b, c = zip(*rows, strict=True)
    results = evaluate("fma.rn.f32", "f32", ("f32", a), ("f32", b), ("f32", c)).tolist()
    for result, (x, y, z) in zip(results, rows, strict=True):
        assert same_number(result, Fraction(x) * Fraction(y) + Fraction(z))


@given(st.integers(-(2**24), 2**24), st.integers(2**23, 2**24 - 1), st.integers(-60, 2), st.booleans())
def test_fused_multiply_add_near_ties(a: int, b: int, power: int, up: bool) -> None:
    """The product, of up to 48 bits, lies anywhere below the last bit of the addend."""
    addend = float(2**23 + 1 if up else 2**23)
    product = (a * 2.0**power, b * 2.0**-46)
    (result,) = evaluate("fma.rn.f32", "f32", ("f32", [product[0]]), ("f32", [product[1]]), ("f32", [addend]))
    assert same_number(float(result), Fraction(product[0]) * Fraction(product[1]) + Fraction(addend))


def test_a_tie_that_float64_sees_wrongly() -> None:
    a, b, c = TIE_BROKEN_BELOW
    assert np.float32(a * b + c) == np.float32(1 + 2.0**-22)
    assert evaluate("fma.rn.f32", "f32", ("f32", [a]), ("f32", [b]), ("f32", [c])) == [np.float32(1 + 2.0**-23)]


@given(rows_of(FINITE))
def test_square_root(rows: list[tuple[float]]) -> None:
    values = [abs(value) for (value,) in rows]
    expected = np.array([math.sqrt(value) for value in values]).astype(np.float32)  # 53 bits are enough to round twice
    assert evaluate("sqrt.rn.f32", "f32", ("f32", values)).tolist() == expected.tolist()


SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-149), 3e38, -3e38], np.float32)
PAIRS = np.array(np.meshgrid(SPECIAL, SPECIAL)).reshape(2, -1)


def bits(values: np.ndarray) -> list[int]:
    """NaN is the one that the hardware gives."""
    return np.where(np.isnan(values), np.uint32(0x7FFFFFFF), values.astype(np.float32).view(np.uint32)).tolist()


@pytest.mark.parametrize(
    ("opcode", "function"),
    [("add.rn", np.add), ("sub.rn", np.subtract), ("mul.rn", np.multiply), ("div.rn", np.divide)],
)
def test_special_floats(opcode: str, function: np.ufunc) -> None:
    a, b = PAIRS
    with np.errstate(all="ignore"):
        expected = bits(function(a, b))
    assert evaluate(f"{opcode}.f32", "f32", ("f32", a), ("f32", b)).view(np.uint32).tolist() == expected


def test_special_floats_of_one_source() -> None:
    with np.errstate(all="ignore"):
        expected = bits(np.sqrt(SPECIAL))
    assert evaluate("sqrt.rn.f32", "f32", ("f32", SPECIAL)).view(np.uint32).tolist() == expected
    numbers = SPECIAL[1:]
    assert evaluate("neg.f32", "f32", ("f32", numbers)).view(np.uint32).tolist() == bits(-numbers)
    assert evaluate("abs.f32", "f32", ("f32", numbers)).view(np.uint32).tolist() == bits(np.abs(numbers))


def test_special_floats_of_a_fused_multiply_add() -> None:
    a, b = PAIRS
    for c in SPECIAL:
        with np.errstate(all="ignore"):
            exact = a.astype(np.float64) * b.astype(np.float64) + np.float64(c)
            expected = bits(exact.astype(np.float32))
        results = evaluate("fma.rn.f32", "f32", ("f32", a), ("f32", b), ("f32", np.full(a.size, c)))
        assert results.view(np.uint32).tolist() == expected


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_floats_are_moved_and_selected_bit_by_bit(kind: str) -> None:
    a = np.arange(0xFFFF_FFFC, 0x1_0000_0000, dtype=TYPES[kind.replace("f", "u")]).view(TYPES[kind])
    b = -np.arange(4, dtype=TYPES[kind])
    assert evaluate(f"mov.{kind}", kind, (kind, a)).tobytes() == a.tobytes()
    chosen = evaluate(f"selp.{kind}", kind, (kind, a), (kind, b), ("pred", [0, 1, 1, 0]))
    assert chosen.tobytes() == np.array([b[0], a[1], a[2], b[3]]).tobytes()


def test_minimum_and_maximum_of_floats() -> None:
    """NaN loses against a number; of two zeros, the negative one is the smaller."""
    a, b = PAIRS
    key = np.copysign(0.5, a) * (a == 0), np.copysign(0.5, b) * (b == 0)
    first = np.isnan(b) | (a < b) | ((a == b) & (key[0] <= key[1]))
    smaller = np.where(first & ~np.isnan(a), a, np.where(np.isnan(b), a, b))
    larger = np.where(first & ~np.isnan(a) & ~np.isnan(b), b, np.where(np.isnan(a), b, a))
    assert evaluate("min.f32", "f32", ("f32", a), ("f32", b)).view(np.uint32).tolist() == bits(smaller)
    assert evaluate("max.f32", "f32", ("f32", a), ("f32", b)).view(np.uint32).tolist() == bits(larger)


def test_float_comparisons() -> None:
    a, b = PAIRS
    rows = [(float(x), float(y), math.isnan(x) or math.isnan(y)) for x, y in PAIRS.T]
    for name, order in ORDERS.items():
        ordered = evaluate(f"setp.{name}.f32", "pred", ("f32", a), ("f32", b))
        unordered = evaluate(f"setp.{name}u.f32", "pred", ("f32", a), ("f32", b))
        assert ordered.tolist() == [not nan and order(x, y) for x, y, nan in rows]
        assert unordered.tolist() == [nan or order(x, y) for x, y, nan in rows]
    assert evaluate("setp.nan.f32", "pred", ("f32", a), ("f32", b)).tolist() == [nan for *_, nan in rows]
    assert evaluate("setp.num.f32", "pred", ("f32", a), ("f32", b)).tolist() == [not nan for *_, nan in rows]


@given(st.sampled_from(CONVERTIBLE), st.data())
def test_integers_to_float(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(integers(kind), min_size=1, max_size=16))
    results = evaluate(f"cvt.rn.f32.{kind}", "f32", (kind, values)).tolist()
    assert all(same_number(result, Fraction(value)) for result, value in zip(results, values, strict=True))


@given(st.lists(FINITE | st.floats(-7e4, 7e4, width=32), min_size=1, max_size=16))
def test_float_to_half(values: list[float]) -> None:
    results = evaluate("cvt.rn.f16.f32", "f16", ("f32", values)).tolist()
    for result, value in zip(results, values, strict=True):
        assert same_number(result, Fraction(value), precision=11, lowest=-24, top=16)


def test_every_half_to_float() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    for part in halves.reshape(4, -1):
        exact = part.astype(np.float32)
        assert evaluate("cvt.f32.f16", "f32", ("f16", part)).view(np.uint32).tolist() == bits(exact)
    assert evaluate("cvt.rn.f16.f32", "f16", ("f32", [np.nan])).view(np.uint16) == [0x7FFF]


# Programs.


def run(body: str, dtype: Any, count: int, threads: str = "4", grid: tuple[int, int, int] = (1, 1, 1)) -> list[Any]:
    """What a kernel leaves in `count` values at its only parameter p0."""
    memory = DeviceMemory(1 << 20)
    out = memory.alloc(np.dtype(dtype).itemsize * count)
    ptx.launch(ptx.parse(module(body, ("u64",), threads)), memory, grid, pack(out))
    return memory.read(out, (count,), dtype).tolist()


OUT = """
mov.u32 %r0, %tid.x;
ld.param.u64 %d0, [p0];
mad.wide.u32 %d0, %r0, 4, %d0;
"""


def test_predication() -> None:
    body = """
    mov.u32 %r1, 10;
    setp.lt.u32 %p1, %r0, 2;
    @%p1 add.u32 %r1, %r1, 5;
    @!%p1 sub.u32 %r1, %r1, %r0;
    st.global.u32 [%d0], %r1;
    """
    assert run(OUT + body, np.uint32, 4) == [15, 15, 8, 7]


def test_a_store_under_a_predicate_leaves_the_others_uninitialised() -> None:
    body = "setp.lt.u32 %p1, %r0, 2; @%p1 st.global.u32 [%d0], %r0;"
    assert run(OUT + body, np.uint32, 2) == [0, 1]
    with pytest.raises(DeviceFault, match="copy to the host: uninitialised read"):
        run(OUT + body, np.uint32, 4)


def test_registers_written_under_both_predicates_are_written() -> None:
    body = """
    setp.lt.u32 %p1, %r0, 2;
    @%p1 mov.u32 %r1, 7;
    {second} mov.u32 %r1, 8;
    st.global.u32 [%d0], %r1;
    """
    assert run(OUT + body.format(second="@!%p1"), np.uint32, 4) == [7, 7, 8, 8]
    with pytest.raises(DeviceFault, match=r"test: reads %r1, which was not written, in st\.global"):
        run(OUT + body.format(second="@%p1"), np.uint32, 4)


def test_reading_a_register_that_nothing_wrote() -> None:
    with pytest.raises(DeviceFault, match=r"reads %r5, which was not written, in add\.u32 %r1, %r5, 1"):
        run(OUT + "add.u32 %r1, %r5, 1;", np.uint32, 4)


def test_a_partly_written_register_may_be_read_where_it_was_written() -> None:
    body = "setp.lt.u32 %p1, %r0, 2; @%p1 mov.u32 %r1, 7; @%p1 st.global.u32 [%d0], %r1;"
    assert run(OUT + body, np.uint32, 2) == [7, 7]


def test_literals() -> None:
    body = """
    mov.u32 %r1, -1;
    mov.b32 %r2, 0f3F800000;
    mov.u32 %r3, 0xFFU;
    mov.pred %p1, -1;
    selp.u32 %r4, 3, 4, %p1;
    st.global.v4.u32 [%d0], {%r1, %r2, %r3, %r4};
    """
    assert run(OUT + body, np.uint32, 4, threads="1") == [2**32 - 1, 0x3F800000, 255, 3]


def test_vectors_pack_and_unpack() -> None:
    body = """
    mov.b64 %d1, 0x1122334455667788;
    mov.b64 {%r1, %r2}, %d1;
    mov.b64 {_, %r3}, %d1;
    mov.b32 {%h1, %h2}, %r1;
    mov.b32 %r4, {%h2, %h1};
    mov.b64 %d2, {%r2, %r4};
    mov.b64 %d3, {%h1, %h1, %h2, %h2};
    st.global.v2.b64 [%d0], {%d2, %d3};
    st.global.b32 [%d0 + 16], %r3;
    """
    packed = np.array(run(OUT + body, np.uint32, 5, threads="1"), np.uint32)
    assert [hex(word) for word in packed] == ["0x11223344", "0x77885566", "0x77887788", "0x55665566", "0x11223344"]


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, "s8"), (np.uint8, "u8"), (np.int16, "s16"), (np.uint16, "b16")])
def test_narrow_loads_and_stores(dtype: Any, kind: str) -> None:
    """A load extends to the register, by the sign of signed types; a store takes the low bits."""
    values = np.array([-1, -128, 127, 1]).astype(dtype)
    memory = DeviceMemory(1 << 20)
    source, out = upload(memory, values), memory.alloc(16)
    size = values.itemsize
    body = f"""
    mov.u32 %r0, %tid.x;
    ld.param.u64 %d0, [p0];
    mad.wide.u32 %d0, %r0, {size}, %d0;
    ld.global.{kind} %r1, [%d0];
    st.global.{kind} [%d0], %r1;
    ld.param.u64 %d1, [p1];
    mad.wide.u32 %d1, %r0, 4, %d1;
    st.global.b32 [%d1], %r1;
    """
    ptx.launch(ptx.parse(module(body)), memory, (1, 1, 1), pack(source, out))
    assert memory.read(source, (4,), dtype).tolist() == values.tolist()
    assert memory.read(out, (4,), np.int32).tolist() == values.tolist()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_vector_loads_and_stores(count: int) -> None:
    memory = DeviceMemory(1 << 20)
    values = np.arange(4 * count, dtype=np.uint32)
    source, out = upload(memory, values), memory.alloc(16 * count)
    vector = "" if count == 1 else f".v{count}"
    registers = ", ".join(f"%r{i + 1}" for i in range(count))
    body = f"""
    mov.u32 %r0, %tid.x;
    ld.param.v2.u64 {{%d0, %d1}}, [p0];
    mad.wide.u32 %d0, %r0, {4 * count}, %d0;
    mad.wide.u32 %d1, %r0, {4 * count}, %d1;
    ld.global.L1::evict_last{vector}.b32 {{ {registers} }}, [ %d0 + 0 ];
    st.global.cg{vector}.b32 [ %d1 + 0 ], {{ {registers} }};
    """
    text = module(body, ("u64",)).replace(".param .u64 p0", ".param .align 8 .b8 p0[16]")
    kernel = ptx.parse(text)
    assert kernel.params == (("p0", 0, 16),)
    ptx.launch(kernel, memory, (1, 1, 1), pack(source, out))
    assert memory.read(out, values.shape, np.uint32).tolist() == values.tolist()


def test_special_registers() -> None:
    """Every thread of a grid of 3-D blocks says where it is."""
    block, grid = (3, 2, 2), (2, 3, 2)
    names = [f"%{name}.{axis}" for name in ("ntid", "nctaid", "tid", "ctaid") for axis in "xyz"]
    place = "mov.u32 %r1, %ctaid.z;"
    for size, index in [("nctaid.y", "ctaid.y"), ("nctaid.x", "ctaid.x")]:
        place += f"mad.lo.u32 %r1, %r1, %{size}, %{index};"
    for size, index in [("ntid.z", "tid.z"), ("ntid.y", "tid.y"), ("ntid.x", "tid.x")]:
        place += f"mad.lo.u32 %r1, %r1, %{size}, %{index};"
    body = place + "ld.param.u64 %d0, [p0]; mad.wide.u32 %d0, %r1, 48, %d0;"
    body += "".join(f"mov.u32 %r2, {name}; st.global.u32 [%d0 + {4 * i}], %r2;" for i, name in enumerate(names))
    count = math.prod(block) * math.prod(grid)
    found = np.array(run(body, np.uint32, 12 * count, "3, 2, 2", grid)).reshape(count, 12)
    indices = np.indices((*grid[::-1], *block[::-1])).reshape(6, count)
    assert (found[:, :6] == [*block, *grid]).all()
    assert (found[:, 6:] == indices[::-1].T).all()


# Parsing.


def test_kernels_describe_themselves() -> None:
    text = module("", ("u64", "u8", "f32", "u16", "u64"), "16, 8").replace(
        ".param .u64 p0", ".param .u64 .ptr .global .align 1 p0"
    )
    kernel = ptx.parse(text)
    assert (kernel.name, kernel.version, kernel.target) == ("test", "7.4", "sm_75")
    assert (kernel.block, kernel.threads) == ((16, 8, 1), 128)
    assert kernel.params == (("p0", 0, 8), ("p1", 8, 1), ("p2", 12, 4), ("p3", 16, 2), ("p4", 24, 8))
    assert kernel.param_bytes == 32
    assert kernel.program == ()


def test_the_entry_is_chosen_by_name() -> None:
    two = module("") + module("mov.u32 %r1, %r1;").removeprefix(HEADER).replace("test", "other")
    assert ptx.parse(two, "other").name == "other"
    for name in (None, "third"):
        with pytest.raises(UnsupportedPtx, match=r"\['other', 'test'\]"):
            ptx.parse(two, name)


def test_comments_line_information_and_labels_are_skipped() -> None:
    body = """
    // a comment; with a semicolon
    .loc 1 2 3, function_name $L__info, inlined_at 1 2 3
    $L__tmp1:
    mov.u32 %r1, /* } */ 1;
    """
    assert [instruction.text for instruction in ptx.parse(module(body)).program] == ["mov.u32 %r1, 1"]


def test_maxntid_stands_in_for_reqntid() -> None:
    assert ptx.parse(module("").replace(".reqntid 4", ".maxntid 4, 1, 1 .minnctapersm 2")).threads == 4


REFUSED = [
    "@%p1 bra $L;",
    "bra.uni $L;",
    "call f;",
    "@%p1 ret;",
    "exit;",
    "bar.sync 0;",
    "membar.gl;",
    "ld.shared.b32 %r1, [%r2];",
    "ld.b32 %r1, [%d1];",
    "ld.volatile.global.b32 %r1, [%d1];",
    "ld.global.L2::cache_hint.b32 %r1, [%d1], %d2;",
    "ld.global.b128 %r1, [%d1];",
    "ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%d1];",
    "ld.global.v4.b64 {%d1, %d2, %d3, %d4}, [%d1];",
    "ld.global.v2.b32 {%r1}, [%d1];",
    "ld.global.b32 %r1, [%r1];",
    "ld.global.b32 %r1, [p0];",
    "ld.param.b64 %d1, [p0 + 8];",
    "ld.param.b64 %d1, [unknown];",
    "st.global.wb.ca.b32 [%d1], %r1;",
    "st.param.b64 [p0], %d1;",
    "atom.global.add.u32 %r1, [%d1], 1;",
    "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;",
    "sin.approx.f32 %r1, %r1;",
    "sqrt.approx.f32 %r1, %r1;",
    "div.full.f32 %r1, %r1, %r1;",
    "add.f32 %r1, %r1, %r1;",
    "sub.f32 %r1, %r1, %r1;",
    "mul.f32 %r1, %r1, %r1;",
    "fma.f32 %r1, %r1, %r1, %r1;",
    "mad.f32 %r1, %r1, %r1, %r1;",
    "add.rz.f32 %r1, %r1, %r1;",
    "mul.rn.ftz.f32 %r1, %r1, %r1;",
    "add.rn.sat.f32 %r1, %r1, %r1;",
    "add.sat.s32 %r1, %r1, %r1;",
    "add.cc.u32 %r1, %r1, %r1;",
    "setp.lt.ftz.f32 %p1, %r1, %r1;",
    "setp.lt.s32 %p1|%p2, %r1, %r1;",
    "setp.lt.and.s32 %p1, %r1, %r1, %p2;",
    "cvt.rzi.s32.f32 %r1, %r1;",
    "cvt.f32.s32 %r1, %r1;",
    "cvt.rn.bf16.f32 %h1, %r1;",
    "add.u32 %r1, %r1;",
    "add.u32 %r1, %r1, %r2, %r3;",
    "add.u32 %d1, %r1, %r2;",
    "add.u32 %r1, %r1, %h1;",
    "add.u32 %r1, %r1, %undeclared;",
    "add.u32 %r1, %r1, symbol;",
    "add.u32 %r1, %r1, 1.5;",
    "add.rn.f32 %r1, %r1, 1;",
    "add.rn.f32 %r1, %r1, 0d3FF0000000000000;",
    "add.u32 %r1, %r1, 017;",
    "and.pred %p1, %p1, %r1;",
    "mov.u32 %r1, %p1;",
    "mov.b16 %h1, {%h1, %h2, %h3};",
    "mov.u32 %r1, %clock;",
    "@%r1 mov.u32 %r1, 0;",
    ".shared .b32 s;",
    ".reg .f16x2 %z;",
    "{ .reg .b32 %z; }",
]


@pytest.mark.parametrize("instruction", REFUSED)
def test_what_is_not_known_exactly_is_refused_by_name(instruction: str) -> None:
    with pytest.raises(UnsupportedPtx) as refusal:
        ptx.parse(module(instruction))
    assert instruction.split(";")[0].strip("{ ") in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ret;", ""),
        ("ret;", "ret; mov.u32 %r1, 0;"),
        (".reqntid 4", ""),
        (".reqntid 4", ".reqntid 4 .reqnctapercluster 2"),
        (".reqntid 4", ".reqntid 4 .blocksareclusters"),
        (".address_size 64", ".address_size 32"),
        (".version 7.4", ""),
        (".param .u64 p0", ".param .texref p0"),
        ("}", ""),
    ],
)
def test_modules_that_are_not_understood_are_refused(old: str, new: str) -> None:
    text = module("mov.u32 %r1, 0;")
    with pytest.raises(UnsupportedPtx):
        ptx.parse(text.replace(old, new))


# Faults.

COPY = """
mov.u32 %r0, %tid.x;
ld.param.u64 %d0, [p0];
ld.param.u64 %d1, [p1];
mad.wide.u32 %d0, %r0, 16, %d0;
mad.wide.u32 %d1, %r0, 16, %d1;
ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d0];
st.global.v4.b32 [%d1], {%r1, %r2, %r3, %r4};
"""


def copy(memory: DeviceMemory, source: int, out: int, grid: tuple[int, int, int] = (1, 1, 1)) -> None:
    """Four threads copy 64 bytes."""
    ptx.launch(ptx.parse(module(COPY)), memory, grid, pack(source, out))


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory(1 << 16)


@pytest.fixture
def source(memory: DeviceMemory) -> int:
    return upload(memory, np.arange(16, dtype=np.float32))


def test_a_copy_by_threads(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(64)
    copy(memory, source, out)
    assert memory.read(out, (16,), np.float32).tolist() == list(range(16))


def test_a_store_past_the_end(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(60)
    with pytest.raises(DeviceFault) as fault:
        copy(memory, source, out)
    end = f"{out + 60:#x}, byte 60 of the 60 bytes at {out:#x}"
    assert str(fault.value).startswith(f"test: out of bounds write of 16 bytes at {end}, in st.global.v4.b32 [%d1]")


def test_a_load_past_the_end(memory: DeviceMemory) -> None:
    short = upload(memory, np.arange(12, dtype=np.float32))
    with pytest.raises(DeviceFault, match=r"test: out of bounds read of 16 bytes at .*, byte 48 of the 48 bytes"):
        copy(memory, short, memory.alloc(64))


@pytest.mark.parametrize("address", [0, 16, 2**63, 2**64 - 64, 0x7F00_0000_0000, 0x7F00_0000_FFF0, 0x7F00_0001_0000])
def test_addresses_that_are_nowhere(memory: DeviceMemory, source: int, address: int) -> None:
    with pytest.raises(DeviceFault, match=f"test: out of bounds read of 16 bytes at {address:#x}"):
        copy(memory, address, source)
    with pytest.raises(DeviceFault, match=f"test: out of bounds write of 16 bytes at {address:#x}"):
        copy(memory, source, address)


def test_use_after_free(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(64)
    memory.free(out)
    memory.alloc(64)
    with pytest.raises(DeviceFault, match=f"test: use after free write of 16 bytes at {out:#x}"):
        copy(memory, source, out)
    memory.free(source)
    with pytest.raises(DeviceFault, match=f"test: use after free read of 16 bytes at {source:#x}"):
        copy(memory, source, out)


def test_misalignment(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(80)
    with pytest.raises(DeviceFault, match=f"test: misaligned write of 16 bytes at {out + 4:#x}"):
        copy(memory, source, out + 4)
    with pytest.raises(DeviceFault, match=f"test: misaligned read of 16 bytes at {source + 8:#x}"):
        copy(memory, source + 8, out)


def test_reading_what_was_never_written(memory: DeviceMemory) -> None:
    fresh = memory.alloc(64)
    memory.write(fresh, np.zeros(5, np.float32))
    with pytest.raises(
        DeviceFault, match=f"test: uninitialised read of 16 bytes at {fresh + 20:#x}, byte 20 of the 64"
    ):
        copy(memory, fresh, memory.alloc(64))


def test_threads_that_take_no_part_may_have_any_address(memory: DeviceMemory) -> None:
    out = memory.alloc(8)
    body = """
    mov.u32 %r0, %tid.x;
    setp.lt.u32 %p1, %r0, 2;
    ld.param.u64 %d0, [p0];
    mad.wide.u32 %d0, %r0, 4, %d0;
    @%p1 st.global.u32 [%d0], %r0;
    """
    ptx.launch(ptx.parse(module(body, ("u64",))), memory, (1, 1, 1), pack(out))
    assert memory.read(out, (2,), np.uint32).tolist() == [0, 1]


RACES = {
    "in one store": "st.global.u32 [%d0], %r0;",
    "in two stores": "setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u32 [%d0], 5; @!%p1 st.global.u32 [%d0], 6;",
    "by a byte": "st.global.u32 [%d0], 7; setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u8 [%d0 + 3], 1;",
    "by a load": "setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u32 [%d0], 5; ld.global.u32 %r1, [%d0];",
}


@pytest.mark.parametrize("body", RACES.values(), ids=RACES)
def test_races(memory: DeviceMemory, body: str) -> None:
    out = memory.alloc(4)
    kernel = ptx.parse(module("mov.u32 %r0, %tid.x; ld.param.u64 %d0, [p0];" + body, ("u64",)))
    with pytest.raises(DeviceFault, match=rf"test: race: .* at {out:#x}|test: race: .* at {out + 3:#x}"):
        ptx.launch(kernel, memory, (1, 1, 1), pack(out))


def test_threads_may_agree(memory: DeviceMemory) -> None:
    """In one launch about a value; the next launch starts anew."""
    out = memory.alloc(4)
    for value in (5, 6):
        body = f"ld.param.u64 %d0, [p0]; st.global.u32 [%d0], {value};"
        ptx.launch(ptx.parse(module(body, ("u64",))), memory, (2, 1, 1), pack(out))
        assert memory.read(out, (), np.uint32) == value


def test_a_thread_may_read_and_replace_what_it_wrote(memory: DeviceMemory) -> None:
    body = "st.global.u32 [%d0], 1; ld.global.u32 %r1, [%d0]; add.u32 %r1, %r1, %r0; st.global.u32 [%d0], %r1;"
    assert run(OUT + body, np.uint32, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [15, 17, 0])
def test_parameters_of_another_size(memory: DeviceMemory, size: int) -> None:
    with pytest.raises(DeviceFault, match=f"test: {size} bytes of parameters, it takes 16"):
        ptx.launch(ptx.parse(module("")), memory, (1, 1, 1), bytes(size))


@pytest.mark.parametrize("grid", [(0, 1, 1), (1, -1, 1), (1, 1, 65536)])
def test_grids_that_no_device_takes(memory: DeviceMemory, grid: tuple[int, int, int]) -> None:
    with pytest.raises(DeviceFault, match="test: a grid of"):
        ptx.launch(ptx.parse(module("")), memory, grid, bytes(16))


# Device memory, seen from the host.


def test_allocations_are_aligned_apart_and_never_reused(memory: DeviceMemory) -> None:
    seen: list[int] = []
    for align in (1, 16, 256, 1024):
        address = memory.alloc(10, align)
        assert address % align == 0
        assert not seen or address >= seen[-1] + 10 + GAP
        seen.append(address)
        memory.free(address)
    assert len(set(seen)) == 4


def test_allocations_that_cannot_be(memory: DeviceMemory) -> None:
    for nbytes in (0, -1, 1 << 16):
        with pytest.raises(DeviceFault, match=f"allocation: {nbytes} bytes"):
            memory.alloc(nbytes)


def test_only_live_allocations_are_freed_and_once(memory: DeviceMemory, source: int) -> None:
    with pytest.raises(DeviceFault, match=f"free: no live allocation starts at {source + 4:#x}, byte 4 of the 64"):
        memory.free(source + 4)
    memory.free(source)
    with pytest.raises(DeviceFault, match="free: no live allocation"):
        memory.free(source)
    with pytest.raises(DeviceFault, match="before any allocation"):
        memory.free(0)


def test_copies_are_checked(memory: DeviceMemory, source: int) -> None:
    assert memory.read(source + 4, (2, 2), np.float32).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DeviceFault, match="copy to the host: out of bounds read of 68 bytes"):
        memory.read(source, (17,), np.float32)
    with pytest.raises(DeviceFault, match="engine: out of bounds write of 68 bytes"):
        memory.write(source, np.zeros(17, np.float32), who="engine")
    for address in (0, -8, 2**64):
        with pytest.raises(DeviceFault, match="copy to the device: out of bounds"):
            memory.write(address, np.zeros(1))
    memory.free(source)
    with pytest.raises(DeviceFault, match="copy to the host: use after free"):
        memory.read(source, (1,), np.float32)


def test_arrays_are_copied_as_they_are_indexed(memory: DeviceMemory) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    address = upload(memory, array)
    assert memory.read(address, (3, 2), np.int16).tolist() == array.tolist()


# What Triton makes, end to end.


@triton.jit
def small_kernel(p_x, p_index, p_out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Grid: (blocks, rows). Row r of the result is computed from row index[r] of x."""
    row = tl.program_id(1)
    source = tl.load(p_index + row)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    x = tl.load(p_x + source * n + i, mask=inside, other=0.0)
    word = tl.umulhi(i.to(tl.uint32) * 0x9E3779B9 + row, tl.full((), 0xD2511F53, tl.uint32))
    scale = (word >> 9).to(tl.int32).to(tl.float32) * 1.1920928955078125e-07
    y = tl.where(x < 0.0, -x, tl.sqrt_rn(x)) * scale + x
    tl.store(p_out + row * n + i, y, mask=inside)


def small_numpy(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    rows, i = np.arange(index.size, dtype=np.uint32)[:, None], np.arange(x.shape[1], dtype=np.uint32)
    word = ((i * np.uint32(0x9E3779B9) + rows).astype(np.uint64) * np.uint64(0xD2511F53) >> np.uint64(32)).astype(
        np.uint32
    )
    scale = (word >> np.uint32(9)).astype(np.float32) * np.float32(2.0**-23)
    x = x[index]
    with np.errstate(invalid="ignore"):
        return np.where(x < 0, -x, np.sqrt(x)) * scale + x


@functools.cache
def compile_small(aligned: bool) -> ptx.Kernel:
    """aligned: pointers and n are multiples of 16, for accesses of 128 bits."""
    types = {"p_x": "*fp32", "p_index": "*i32", "p_out": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    divisible = {(i,): [["tt.divisibility", 16]] for i in range(4)} if aligned else {}
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        compiled = triton.compile(
            triton.compiler.ASTSource(small_kernel, types, {"BLOCK": 512}, divisible),
            target=triton.backends.compiler.GPUTarget("cuda", 75, 32),
            options={"num_warps": 4, "enable_fp_fusion": False, "ptx_version": 74},
        )
    assert ("ld.global.v4.b32" in compiled.asm["ptx"]) == aligned
    return ptx.parse(compiled.asm["ptx"])


@pytest.mark.parametrize(
    ("aligned", "n"), [(True, 16), (True, 512), (True, 1040), (False, 1), (False, 37), (False, 512), (False, 1029)]
)
def test_a_triton_kernel_gives_the_bits_of_numpy(aligned: bool, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
    index = np.array([2, 0, 1, 2], np.int32)
    memory = DeviceMemory(1 << 20)
    addresses = [upload(memory, x), upload(memory, index), memory.alloc(4 * index.size * n)]
    parameters = pack(*addresses) + np.int32(n).tobytes() + bytes(4) + pack(0, 0)
    ptx.launch(compile_small(aligned), memory, (-(-n // 512), index.size, 1), parameters)
    result = memory.read(addresses[2], (index.size, n), np.float32)
    assert (result.view(np.uint32) == small_numpy(x, index).view(np.uint32)).all()


@pytest.mark.parametrize("aligned", [True, False])
def test_a_triton_kernel_with_a_wrong_index_faults(aligned: bool) -> None:
    memory = DeviceMemory(1 << 20)
    x = upload(memory, np.zeros((3, 64), np.float32))
    addresses = [x, upload(memory, np.array([3], np.int32)), memory.alloc(256)]
    parameters = pack(*addresses) + np.int32(64).tobytes() + bytes(4) + pack(0, 0)
    with pytest.raises(DeviceFault, match="small_kernel: out of bounds read"):
        ptx.launch(compile_small(aligned), memory, (1, 1, 1), parameters)
