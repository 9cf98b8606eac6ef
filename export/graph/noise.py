"""kernels.noise as ONNX operators: Philox in uint64, Box-Muller in float32, in the order that numpy's twin has."""

import numpy as np

from .builder import BOOL, FLOAT, INT64, UINT64, Builder

WORD = 0xFFFFFFFF
ROOT_2 = float(np.array([0x3F3504F3], np.uint32).view(np.float32)[0]) * 2
"""Twice the float32 just above sqrt(1/2), where numpy's twin changes the exponent."""

Keys = list[tuple[str, str]]
"""Philox's key in each of its ten rounds: two words."""


def key_schedule(g: Builder, seed: str) -> Keys:
    """The keys of a uint64 scalar."""
    mask = g.u64(WORD)
    low, high = g.op("BitwiseAnd", seed, mask), shift_right(g, seed, 32)
    keys = []
    for _ in range(10):
        keys.append((low, high))
        low = g.op("BitwiseAnd", g.add(low, g.u64(0x9E3779B9)), mask)
        high = g.op("BitwiseAnd", g.add(high, g.u64(0xBB67AE85)), mask)
    return keys


def normal(g: Builder, keys: Keys, image: str, stream: str, step: str, shape: str) -> str:
    """normal_numpy: float32 of `shape`, an int64 vector.

    keys: of the seed. image, step, and stream = 2 repeat + kind: uint64 scalars.
    """
    size = g.op("ReduceProd", shape, keepdims=0)
    count = g.div(g.add(size, g.i64(3)), g.i64(4))
    counter = g.cast(g.op("Range", g.i64(0), count, g.i64(1)), UINT64)
    words = philox(g, keys, (counter, step, stream, image))
    row = g.op("Concat", g.i64([1]), g.op("Unsqueeze", count, g.i64([0])), axis=0)
    first, second, third, fourth = (g.op("Expand", word, row) for word in words)
    radius = g.op("Concat", first, third, axis=0)
    angle = g.op("Concat", second, fourth, axis=0)
    r = g.op("Sqrt", g.mul(g.f32(-2), log_uniform(g, radius)))
    pair = [g.op("Unsqueeze", g.mul(r, part), g.i64([1])) for part in cosine_and_sine(g, angle)]
    z = g.op("Transpose", g.op("Concat", *pair, axis=1), perm=[2, 0, 1])  # [count, 2, 2]
    flat = g.op("Slice", g.op("Reshape", z, g.i64([-1])), g.i64([0]), g.op("Unsqueeze", size, g.i64([0])))
    return g.op("Reshape", flat, shape)


def philox(g: Builder, keys: Keys, counter: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
    """Four words below 2^32, in uint64, of counters that broadcast."""
    mask = g.u64(WORD)
    c0, c1, c2, c3 = counter
    for k0, k1 in keys:
        p0, p2 = g.mul(c0, g.u64(0xD2511F53)), g.mul(c2, g.u64(0xCD9E8D57))
        c0, c1, c2, c3 = (
            exclusive_or(g, exclusive_or(g, shift_right(g, p2, 32), c1), k0),
            g.op("BitwiseAnd", p2, mask),
            exclusive_or(g, exclusive_or(g, shift_right(g, p0, 32), c3), k1),
            g.op("BitwiseAnd", p0, mask),
        )
    return c0, c1, c2, c3


def log_uniform(g: Builder, word: str) -> str:
    """ln((n + 0.5) 2^-23) for n = word >> 9, as kernels.noise.log_uniform.

    ONNX cannot read a float's bits, so the exponent comes from tables of n's upper and lower bits.
    """
    n = g.cast(shift_right(g, word, 9), INT64)
    u = g.mul(g.add(g.cast(n, FLOAT), g.f32(0.5)), g.f32(2**-23))
    exponent = floor_log2(g, n)
    powers = g.f32(2.0 ** np.arange(25))
    near = g.mul(u, g.op("Gather", powers, g.op("Neg", exponent)))  # in [1, 2), exact
    below = g.op("Less", near, g.f32(ROOT_2))
    e = g.cast(g.where(below, exponent, g.add(exponent, g.i64(1))), FLOAT)
    x = g.sub(g.where(below, near, g.mul(near, g.f32(0.5))), g.f32(1))
    z = g.mul(x, x)
    p = g.sub(g.mul(g.f32(0.07037683576345444), x), g.f32(0.11514610052108765))
    p = g.add(g.mul(p, x), g.f32(0.11676998436450958))
    p = g.sub(g.mul(p, x), g.f32(0.12420140951871872))
    p = g.add(g.mul(p, x), g.f32(0.14249321818351746))
    p = g.sub(g.mul(p, x), g.f32(0.16668057441711426))
    p = g.add(g.mul(p, x), g.f32(0.2000071406364441))
    p = g.sub(g.mul(p, x), g.f32(0.24999994039535522))
    p = g.add(g.mul(p, x), g.f32(0.3333333134651184))
    y = g.mul(g.mul(x, z), p)
    y = g.add(y, g.mul(e, g.f32(-0.00021219444170128554)))
    y = g.sub(y, g.mul(g.f32(0.5), z))
    return g.add(g.add(x, y), g.mul(e, g.f32(0.693359375)))


def floor_log2(g: Builder, n: str) -> str:
    """The exponent of (n + 0.5) 2^-23, for n of 23 bits."""
    low = [(2 * bits + 1).bit_length() - 25 for bits in range(2048)]
    high = [0, *(bits.bit_length() - 13 for bits in range(1, 4096))]
    upper, lower = g.div(n, g.i64(2048)), g.op("BitwiseAnd", n, g.i64(2047))
    return g.where(
        g.op("Greater", upper, g.i64(0)),
        g.op("Gather", g.i64(high), upper),
        g.op("Gather", g.i64(low), lower),
    )


def cosine_and_sine(g: Builder, word: str) -> tuple[str, str]:
    """Cosine and sine of the angle word / 2^32 of a turn, as kernels.noise.cosine_and_sine."""
    quadrant = g.cast(shift_right(g, g.add(word, g.u64(0x20000000)), 30), INT64)  # 0..4
    remainder = g.sub(g.cast(word, INT64), g.mul(quadrant, g.i64(1 << 30)))
    high = g.op("BitwiseAnd", g.add(remainder, g.i64(0x20000)), g.i64(-0x40000))
    wh = g.mul(g.cast(high, FLOAT), g.f32(2**-29))
    wl = g.mul(g.cast(g.sub(remainder, high), FLOAT), g.f32(2**-29))
    w = g.add(wh, wl)
    z = g.mul(w, w)
    p = g.add(g.mul(g.f32(-3.597898466978222e-05), z), g.f32(0.00249004946090281))
    p = g.sub(g.mul(p, z), g.f32(0.08074545860290527))
    rest = g.sub(g.mul(wl, g.f32(0.7853981852531433)), g.mul(wh, g.f32(2.2272274691204075e-06)))
    s = g.add(g.mul(wh, g.f32(0.785400390625)), g.add(rest, g.mul(g.mul(z, w), p)))
    q = g.add(g.mul(g.f32(-3.538284317983198e-06), z), g.f32(0.000325956178130582))
    q = g.sub(g.mul(q, z), g.f32(0.015854336321353912))
    q = g.add(g.mul(q, z), g.f32(9.074112128359957e-09))
    rest = g.add(g.mul(g.mul(g.f32(0.3084251284599304), wl), g.add(wh, w)), g.mul(q, z))
    c = g.sub(g.f32(1), g.add(g.mul(g.f32(0.3084251284599304), g.mul(wh, wh)), rest))
    odd = bit(g, quadrant, 1)
    # A sign by multiplication: onnxruntime's Where may lose the one of -0.0.
    cosine = g.mul(sign(g, bit(g, g.add(quadrant, g.i64(1)), 2)), g.where(odd, s, c))
    sine = g.mul(sign(g, bit(g, quadrant, 2)), g.where(odd, c, s))
    return cosine, sine


def bit(g: Builder, number: str, which: int) -> str:
    return g.cast(g.op("BitwiseAnd", number, g.i64(which)), BOOL)


def sign(g: Builder, negative: str) -> str:
    return g.where(negative, g.f32(-1), g.f32(1))


def shift_right(g: Builder, word: str, bits: int) -> str:
    return g.op("BitShift", word, g.u64(bits), direction="RIGHT")


def exclusive_or(g: Builder, a: str, b: str) -> str:
    return g.op("BitwiseXor", a, b)
