"""Each instruction of the PTX emulator against plain Python integers, exact fractions and numpy."""

import itertools
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import ptx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ptx import TYPES
from ptx_snippets import evaluate, run

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
    """Values at the ends and in the middle of the type, and shift amounts around its widths."""
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
    """The closest number with `bits` bits, even on a tie; by default float32's."""
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
    """A NaN is the one that the hardware gives."""
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
