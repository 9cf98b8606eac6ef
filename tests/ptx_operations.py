"""The PTX instructions that are known exactly: what each computes, on numpy arrays of one value a thread."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Registers are kept as arrays of unsigned integers, predicates as booleans; instructions view them as they need.


def unsigned(nbytes: int) -> np.dtype:
    return np.dtype(f"u{nbytes}")


TYPES = {"pred": np.dtype(bool), "f16": np.dtype("f2"), "f32": np.dtype("f4"), "f64": np.dtype("f8")}
for _bits in (8, 16, 32, 64):
    TYPES[f"b{_bits}"] = TYPES[f"u{_bits}"] = unsigned(_bits // 8)
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


@dataclass(frozen=True)
class Operation:
    """An instruction. widens: registers may be wider than its types; sources are cut, the result is sign-extended."""

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
    """The values with the hardware's NaN in place of the host's."""
    nan = np.isnan(values)
    if not nan.any():
        return values
    bits = unsigned(values.itemsize)
    return np.where(nan, bits.type(NAN[values.itemsize]), values.view(bits)).view(values.dtype)


def _rounded(compute: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """A float operation of numpy, which rounds to nearest even as IEEE 754 and .rn do."""
    return lambda *sources: _canonical(compute(*sources))


def _fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c with a single rounding, by way of float64.

    In float64 the product is exact. The sum is rounded to odd: an inexact sum whose last bit is even is replaced by its
    neighbour on the other side of the exact sum. Then the second rounding, to float32, is as if from the exact sum.
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
    """The smaller value: the number if the other is NaN, and -0 if both are zeros."""
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
    """Comparisons by name. If a float is NaN the plain ones are false, and the ones with a u are true."""
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
