"""Noise as a function of (seed, image, repeat, step, element): Philox4x32-10 words, made normal by Box-Muller.

Integer arithmetic and IEEE float32 multiply, add and sqrt only, in the order written here, so that the other twins give
the same bits. Constants are exact float32 values. Against float64 a normal z is within 2.5e-7 max(1, |z|).
"""

import numpy as np

from .layout import KIND_BEGIN, KIND_STEP, MAX_ELEMENTS

__all__ = ["normal_numpy", "philox"]

F = np.float32
U32 = np.uint32
U64 = np.uint64


def philox(seed: int, counter: tuple[np.ndarray | int, ...]) -> tuple[np.ndarray, ...]:
    """Four uint32 words a counter: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    seed: 64 bits, low half first in the key. counter: four words, each an int or a uint32 array; they broadcast.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word, U32) for word in counter))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0 = c0.astype(U64) * U64(0xD2511F53)
        p2 = c2.astype(U64) * U64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p2 >> U64(32)).astype(U32) ^ c1 ^ U32(k0),
            p2.astype(U32),
            (p0 >> U64(32)).astype(U32) ^ c3 ^ U32(k1),
            p0.astype(U32),
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def log_uniform(word: np.ndarray) -> np.ndarray:
    """ln(u) for u = ((word >> 9) + 0.5) 2^-23, which is exact; polynomial of Cephes' logf."""
    u = ((word >> U32(9)).astype(np.int32).astype(F) + F(0.5)) * F(2**-23)
    bits = u.view(np.int32)
    e = (bits - np.int32(0x3F3504F3)) >> np.int32(23)  # u = 2^e (1 + x) with 1 + x in [sqrt(1/2), sqrt(2))
    x = (bits - (e << np.int32(23))).view(F) - F(1)
    n = e.astype(F)
    z = x * x
    p = F(0.07037683576345444) * x - F(0.11514610052108765)
    p = p * x + F(0.11676998436450958)
    p = p * x - F(0.12420140951871872)
    p = p * x + F(0.14249321818351746)
    p = p * x - F(0.16668057441711426)
    p = p * x + F(0.2000071406364441)
    p = p * x - F(0.24999994039535522)
    p = p * x + F(0.3333333134651184)
    y = x * z * p
    y = y + n * F(-0.00021219444170128554)  # ln 2 = 0.693359375 - 0.000212...: the first product is exact
    y = y - F(0.5) * z
    return (x + y) + n * F(0.693359375)


def cosine_and_sine(word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of the angle word / 2^32 of a turn, within 9e-8 for values above 0.17, and closer below.

    The angle is a quadrant and a remainder of at most an eighth of a turn.
    """
    quadrant = (word + U32(0x20000000)) >> U32(30)
    c, s = cosine_and_sine_of_an_eighth((word - (quadrant << U32(30))).view(np.int32))
    odd = (quadrant & U32(1)) != 0
    cosine = np.where(odd, s, c)
    sine = np.where(odd, c, s)
    cosine = np.where(((quadrant + U32(1)) & U32(2)) != 0, -cosine, cosine)
    sine = np.where((quadrant & U32(2)) != 0, -sine, sine)
    return cosine, sine


def cosine_and_sine_of_an_eighth(remainder: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of the angle remainder / 2^32 of a turn, which is w pi/4 with w in [-1, 1].

    w is kept as wh + wl, wh of 12 bits, so that the leading terms wh pi/4 and (wh pi/4)^2 / 2 lose nothing.
    """
    high = (remainder + np.int32(0x20000)) & np.int32(-0x40000)
    low = remainder - high
    wh = high.astype(F) * F(2**-29)
    wl = low.astype(F) * F(2**-29)
    w = wh + wl
    z = w * w
    p = F(-3.597898466978222e-05) * z + F(0.00249004946090281)
    p = p * z - F(0.08074545860290527)
    s = wh * F(0.785400390625) + ((wl * F(0.7853981852531433) - wh * F(2.2272274691204075e-06)) + z * w * p)
    q = F(-3.538284317983198e-06) * z + F(0.000325956178130582)
    q = q * z - F(0.015854336321353912)
    q = q * z + F(9.074112128359957e-09)
    v = F(0.3084251284599304) * (wh * wh) + (F(0.3084251284599304) * wl * (wh + w) + q * z)
    return F(1) - v, s


def box_muller(radius_word: np.ndarray, angle_word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard normals: r cos, r sin with r = sqrt(-2 ln u)."""
    r = np.sqrt(F(-2) * log_uniform(radius_word))
    cosine, sine = cosine_and_sine(angle_word)
    return r * cosine, r * sine


def normal_numpy(seed: int, image: int, repeat: int, step: int, kind: int, size: int) -> np.ndarray:
    """The first `size` elements of one image's standard normal noise, float32 [size].

    seed: 64 bits. image, step: 32 bits. repeat: 31 bits. kind: KIND_BEGIN (with step 0) or KIND_STEP. Elements count
    through the flattened C, H, W image; four share a counter. Raises ValueError for a value outside its range.
    """
    check_noise_key(seed, image, repeat, step, kind, size)
    element = np.arange(-(-size // 4), dtype=U32)
    words = philox(seed, (element, step, 2 * repeat + kind, image))
    z = np.stack([*box_muller(words[0], words[1]), *box_muller(words[2], words[3])], axis=1)
    return z.reshape(-1)[:size]


def check_noise_key(seed: int, image: int, repeat: int, step: int, kind: int, size: int) -> None:
    limits = {
        "seed": (seed, 2**64),
        "image": (image, 2**32),
        "repeat": (repeat, 2**31),
        "step": (step, 2**32),
        "kind": (kind, 2),
        "size": (size, MAX_ELEMENTS + 1),
    }
    for name, (value, limit) in limits.items():
        if not 0 <= value < limit:
            raise ValueError(f"{name} {value} is not in 0..{limit - 1}")
    if kind == KIND_BEGIN and step != 0:
        raise ValueError(f"step {step} of begin noise (kind {KIND_BEGIN}) is not 0; steps have kind {KIND_STEP}")
