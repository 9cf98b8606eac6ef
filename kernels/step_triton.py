"""begin, step and advance in Triton: the same contracts and bits as step_numpy.py, one pass over memory.

The kernels use multiply, add, sqrt_rn and integers only. They must be compiled with enable_fp_fusion=False. A program
computes one block of pixels of one channel of one slot; a thread holds the four elements that share a noise counter.
Channels vary fastest: they share the mask, which is then read from memory once. layout.py defines the state. Rows and
counters are read as 32-bit words, seeds as 64-bit words.

This module imports triton; only code that compiles or tests kernels imports it.
"""

from typing import Any

import triton
import triton.language as tl

from .layout import ADVANCE_ARRAYS, BEGIN_ARRAYS, STEP_ARRAYS

WORDS = tl.constexpr(16)
"""Number of 32-bit words in a row. The names below are the places of its fields, in the order of layout.ROW."""

A_X = tl.constexpr(1)
A_O = tl.constexpr(2)
CLIP = tl.constexpr(3)
GUIDANCE = tl.constexpr(4)
C_X = tl.constexpr(5)
C_0 = tl.constexpr(6)
C_H = tl.constexpr(7)
C_Z = tl.constexpr(8)
K_G = tl.constexpr(9)
K_Z = tl.constexpr(10)
THRESHOLD = tl.constexpr(11)
H_THRESHOLD = tl.constexpr(12)
STEP = tl.constexpr(13)
REPEAT = tl.constexpr(14)
KEEP_NOISE = tl.constexpr(15)

KIND_BEGIN = tl.constexpr(0)
KIND_STEP = tl.constexpr(1)

BLOCK = 512
"""Number of elements that one program of begin or step computes: four for each thread."""

NUM_WARPS = 4


# Arithmetic: pure functions on values. Each line is that of noise.py or step_numpy.py.


@triton.jit
def philox(seed, c0, c1, c2, c3):
    m0 = tl.full((), 0xD2511F53, tl.uint32)
    m2 = tl.full((), 0xCD9E8D57, tl.uint32)
    k0 = (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    for _ in tl.static_range(10):
        h0 = tl.umulhi(c0, m0)
        l0 = c0 * m0
        h2 = tl.umulhi(c2, m2)
        l2 = c2 * m2
        c0 = h2 ^ c1 ^ k0
        c1 = l2
        c2 = h0 ^ c3 ^ k1
        c3 = l0
        k0 = k0 + tl.full((), 0x9E3779B9, tl.uint32)
        k1 = k1 + tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def log_uniform(word):
    u = ((word >> 9).to(tl.int32).to(tl.float32) + 0.5) * 1.1920928955078125e-07
    bits = u.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    x = (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    n = e.to(tl.float32)
    z = x * x
    p = 0.07037683576345444 * x - 0.11514610052108765
    p = p * x + 0.11676998436450958
    p = p * x - 0.12420140951871872
    p = p * x + 0.14249321818351746
    p = p * x - 0.16668057441711426
    p = p * x + 0.2000071406364441
    p = p * x - 0.24999994039535522
    p = p * x + 0.3333333134651184
    y = x * z * p
    y = y + n * -0.00021219444170128554
    y = y - 0.5 * z
    return (x + y) + n * 0.693359375


@triton.jit
def cosine_and_sine(word):
    quadrant = (word + 0x20000000) >> 30
    remainder = (word - (quadrant << 30)).to(tl.int32, bitcast=True)
    high = (remainder + 0x20000) & -0x40000
    low = remainder - high
    wh = high.to(tl.float32) * 1.862645149230957e-09
    wl = low.to(tl.float32) * 1.862645149230957e-09
    w = wh + wl
    z = w * w
    p = -3.597898466978222e-05 * z + 0.00249004946090281
    p = p * z - 0.08074545860290527
    s = wh * 0.785400390625 + ((wl * 0.7853981852531433 - wh * 2.2272274691204075e-06) + z * w * p)
    q = -3.538284317983198e-06 * z + 0.000325956178130582
    q = q * z - 0.015854336321353912
    q = q * z + 9.074112128359957e-09
    v = 0.3084251284599304 * (wh * wh) + (0.3084251284599304 * wl * (wh + w) + q * z)
    c = 1.0 - v
    odd = (quadrant & 1) != 0
    cosine = tl.where(odd, s, c)
    sine = tl.where(odd, c, s)
    cosine = tl.where(((quadrant + 1) & 2) != 0, -cosine, cosine)
    sine = tl.where((quadrant & 2) != 0, -sine, sine)
    return cosine, sine


@triton.jit
def box_muller(radius_word, angle_word):
    r = tl.sqrt_rn(-2.0 * log_uniform(radius_word))
    cosine, sine = cosine_and_sine(angle_word)
    return r * cosine, r * sine


@triton.jit
def normal(seed, image, repeat, step, kind, group):
    """Normals of the elements 4 group .. 4 group + 3: float32 [G, 4]. group: uint32 [G]."""
    zero = group * 0
    r0, r1, r2, r3 = philox(seed, group, zero + step, zero + (2 * repeat + kind), zero + image)
    z0, z1 = box_muller(r0, r1)
    z2, z3 = box_muller(r2, r3)
    return tl.reshape(tl.join(tl.join(z0, z2), tl.join(z1, z3)), [group.shape[0], 4])


@triton.jit
def update(x, h, g, m, o, z, z_keep, a_x, a_o, clip, c_x, c_0, c_h, c_z, k_g, k_z, threshold, h_threshold):
    """The new x' and h' of docs/design.md, contract 2."""
    x0 = a_x * x + a_o * o
    x0 = tl.where(x0 < -clip, -clip, x0)
    x0 = tl.where(x0 > clip, clip, x0)
    last = tl.where(m >= h_threshold, h, x0)
    edit = ((c_x * x + c_0 * x0) + c_h * last) + c_z * z
    keep = k_g * g + k_z * z_keep
    return tl.where(m >= threshold, edit, keep), x0


# Addresses: the elements of a program, and its slot's row.


@triton.jit
def elements_of_program(pixels, BLOCK: tl.constexpr):
    """This program's groups, uint32 [G], their elements of the image, int32 [G, 4], and its channel's first element.

    Groups are aligned to the whole image, so a channel whose size is no multiple of four shares its edge groups.
    """
    first = tl.program_id(0) * pixels
    group = (first >> 2) + tl.program_id(1) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    element = group[:, None] * 4 + tl.arange(0, 4)[None, :]
    return group.to(tl.uint32), element, first


@triton.jit
def within(element, first, pixels, acts):
    """Mask of the elements that lie in the channel. If the slot does not act, the mask is False everywhere."""
    return (element >= first) & (element < first + tl.where(acts, pixels, 0))


@triton.jit
def slot_and_row(p_rows, p_counter, p_row_count, max_rows):
    """This program's slot, the number and address of its next row, and whether it has one. If not, they are row 0's."""
    slot = tl.program_id(2)
    at = tl.load(p_counter + slot)
    busy = at.to(tl.uint32, bitcast=True) < tl.load(p_row_count + slot).to(tl.uint32, bitcast=True)
    at = tl.where(busy, at, 0)
    return slot, at, p_rows + (slot * max_rows + at) * WORDS, busy


@triton.jit
def float_of(p_row, WORD: tl.constexpr):
    return tl.load(p_row + WORD).to(tl.float32, bitcast=True)


@triton.jit
def word_of(p_row, WORD: tl.constexpr):
    return tl.load(p_row + WORD).to(tl.uint32, bitcast=True)


@triton.jit
def begin_kernel(
    p_x,
    p_guide,
    p_mask,
    p_alpha0,
    p_sigma0,
    p_rows,
    p_counter,
    p_row_count,
    p_seed,
    p_image,
    pixels,
    max_rows,
    BLOCK: tl.constexpr,
):
    """Contract 2's begin. Grid: (C, blocks of a channel, B)."""
    slot, at, p_row, busy = slot_and_row(p_rows, p_counter, p_row_count, max_rows)
    acts = busy & (word_of(p_row, STEP) == 0)
    repeat = word_of(p_row, REPEAT)
    takes_over = acts & (repeat > 0) & (at > 0)
    threshold = float_of(p_row - tl.where(takes_over, WORDS, 0), THRESHOLD)

    group, element, first = elements_of_program(pixels, BLOCK)
    inside = within(element, first, pixels, acts)
    taken = within(element, first, pixels, takes_over)
    o_image = slot.to(tl.int64) * pixels * tl.num_programs(0)
    g = tl.load(p_guide + o_image + element, mask=inside, other=0.0)
    x = tl.load(p_x + o_image + element, mask=taken, other=0.0)
    m = tl.load(p_mask + slot.to(tl.int64) * pixels + (element - first), mask=taken, other=0.0)
    g = tl.where(taken & (m >= threshold), x, g)
    tl.store(p_guide + o_image + element, g, mask=taken)

    seed = tl.load(p_seed + slot)
    image = tl.load(p_image + slot).to(tl.uint32, bitcast=True)
    z = normal(seed, image, repeat, 0, KIND_BEGIN, group)
    x = tl.load(p_alpha0 + slot) * g + tl.load(p_sigma0 + slot) * z
    tl.store(p_x + o_image + element, x, mask=inside)


@triton.jit
def step_kernel(
    p_x,
    p_h,
    p_guide,
    p_mask,
    p_o,
    p_o_uncond,
    p_rows,
    p_counter,
    p_row_count,
    p_seed,
    p_image,
    pixels,
    max_rows,
    GUIDED: tl.constexpr,
    BEGIN_NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Contract 2's step. Grid: (C, blocks of a channel, B). Rows whose keep_noise is 1 need BEGIN_NOISE."""
    slot, _, p_row, busy = slot_and_row(p_rows, p_counter, p_row_count, max_rows)

    group, element, first = elements_of_program(pixels, BLOCK)
    inside = within(element, first, pixels, busy)
    o_image = slot.to(tl.int64) * pixels * tl.num_programs(0)
    x = tl.load(p_x + o_image + element, mask=inside, other=0.0)
    h = tl.load(p_h + o_image + element, mask=inside, other=0.0)
    g = tl.load(p_guide + o_image + element, mask=inside, other=0.0)
    m = tl.load(p_mask + slot.to(tl.int64) * pixels + (element - first), mask=inside, other=0.0)
    o = tl.load(p_o + o_image + element, mask=inside, other=0.0)
    if GUIDED:
        uncond = tl.load(p_o_uncond + o_image + element, mask=inside, other=0.0)
        o = uncond + float_of(p_row, GUIDANCE) * (o - uncond)

    seed = tl.load(p_seed + slot)
    image = tl.load(p_image + slot).to(tl.uint32, bitcast=True)
    repeat = word_of(p_row, REPEAT)
    z = normal(seed, image, repeat, word_of(p_row, STEP), KIND_STEP, group)
    z_keep = z
    if BEGIN_NOISE:
        z_begin = normal(seed, image, repeat, 0, KIND_BEGIN, group)
        z_keep = tl.where(word_of(p_row, KEEP_NOISE) != 0, z_begin, z)

    x, h = update(
        x,
        h,
        g,
        m,
        o,
        z,
        z_keep,
        float_of(p_row, A_X),
        float_of(p_row, A_O),
        float_of(p_row, CLIP),
        float_of(p_row, C_X),
        float_of(p_row, C_0),
        float_of(p_row, C_H),
        float_of(p_row, C_Z),
        float_of(p_row, K_G),
        float_of(p_row, K_Z),
        float_of(p_row, THRESHOLD),
        float_of(p_row, H_THRESHOLD),
    )
    tl.store(p_x + o_image + element, x, mask=inside)
    tl.store(p_h + o_image + element, h, mask=inside)


@triton.jit
def advance_kernel(p_rows, p_counter, p_row_count, p_time, max_rows):
    """Move each busy slot to its next row, and write that row's time. Grid: (B,)."""
    slot = tl.program_id(0)
    at = tl.load(p_counter + slot)
    count = tl.load(p_row_count + slot).to(tl.uint32, bitcast=True)
    busy = at.to(tl.uint32, bitcast=True) < count
    then = at + 1
    more = busy & (then.to(tl.uint32, bitcast=True) < count)
    time = tl.load(p_rows + (slot * max_rows + then) * WORDS, mask=more, other=0).to(tl.float32, bitcast=True)
    tl.store(p_counter + slot, then, mask=busy)
    tl.store(p_time + slot, time, mask=more)


# Launches: signatures of the other twins, for torch tensors that view the arrays of layout.py.


def grid_of(x: Any) -> tuple[int, int, int]:
    """Number of programs along each axis. If channels do not start at multiples of four, each needs up to one more."""
    slots, channels, height, width = x.shape
    pixels = height * width
    spill = 0 if pixels % 4 == 0 else 3
    return channels, triton.cdiv(pixels + spill, BLOCK), slots


def begin_triton(state: Any) -> None:
    """The same as begin_numpy, on torch tensors over the same memory.

    rows: int32 [B, R, 16]. counter, row_count, image: int32 [B]. seed: int64 [B]. All others: float32.
    """
    x, *images, rows, counter, row_count, seed, image = (state[name] for name in BEGIN_ARRAYS)
    sizes = (x.shape[2] * x.shape[3], rows.shape[1])
    slots = (rows, counter, row_count, seed, image, *sizes)
    begin_kernel[grid_of(x)](x, *images, *slots, BLOCK, num_warps=NUM_WARPS, enable_fp_fusion=False)


def step_triton(state: Any) -> None:
    """The same as step_numpy, on tensors as in begin_triton."""
    x, h, guide, mask, o, o_uncond, rows, counter, row_count, seed, image = (state.get(name) for name in STEP_ARRAYS)
    step_kernel[grid_of(x)](
        x,
        h,
        guide,
        mask,
        o,
        o if o_uncond is None else o_uncond,
        rows,
        counter,
        row_count,
        seed,
        image,
        x.shape[2] * x.shape[3],
        rows.shape[1],
        o_uncond is not None,
        True,
        BLOCK,
        num_warps=NUM_WARPS,
        enable_fp_fusion=False,
    )


def advance_triton(state: Any) -> None:
    """The same as advance_numpy, on tensors as in begin_triton."""
    rows, counter, row_count, time = (state[name] for name in ADVANCE_ARRAYS)
    advance_kernel[(len(counter),)](rows, counter, row_count, time, rows.shape[1], num_warps=1)
