"""begin, step and advance in numpy: what the kernels mean. The other twins give the same bits.

Every product and sum is rounded to float32 in the order written; nothing is fused and nothing flushed to zero. A NaN
stays a NaN, whatever its payload. Arrays are those of layout.py and are updated in place; idle slots are not touched.
"""

import numpy as np

from .layout import KIND_BEGIN, KIND_STEP, busy_slots, check_state
from .noise import normal_numpy


def begin_numpy(
    x: np.ndarray,
    guide: np.ndarray,
    mask: np.ndarray,
    alpha0: np.ndarray,
    sigma0: np.ndarray,
    rows: np.ndarray,
    counter: np.ndarray,
    row_count: np.ndarray,
    seed: np.ndarray,
    image: np.ndarray,
) -> None:
    """Noise the guide: x = alpha0 g + sigma0 z, in every slot whose next row is the first of a repeat.

    From the second repeat on, what the last one edited is the new guide: g <- x where m >= the last row's threshold.
    """
    check_state(
        x=x,
        guide=guide,
        mask=mask,
        alpha0=alpha0,
        sigma0=sigma0,
        rows=rows,
        counter=counter,
        row_count=row_count,
        seed=seed,
        image=image,
    )
    for b in busy_slots(counter, row_count):
        at = int(counter[b])
        row = rows[b, at]
        if row["step"] != 0:
            continue
        if row["repeat"] > 0 and at > 0:
            guide[b] = np.where(mask[b] >= rows[b, at - 1]["threshold"], x[b], guide[b])
        z = _normal(x[b], seed[b], image[b], row["repeat"], 0, KIND_BEGIN)
        with np.errstate(all="ignore"):
            x[b] = alpha0[b] * guide[b] + sigma0[b] * z


def step_numpy(
    x: np.ndarray,
    h: np.ndarray,
    guide: np.ndarray,
    mask: np.ndarray,
    o: np.ndarray,
    o_uncond: np.ndarray | None,
    rows: np.ndarray,
    counter: np.ndarray,
    row_count: np.ndarray,
    seed: np.ndarray,
    image: np.ndarray,
) -> None:
    """One row of every busy slot's plan: x and h become x' and h'.

    o is the network's output at x; with o_uncond, o is the conditional output and the row's guidance mixes the two.
    """
    check_state(
        x=x,
        h=h,
        guide=guide,
        mask=mask,
        o=o,
        **({} if o_uncond is None else {"o_uncond": o_uncond}),
        rows=rows,
        counter=counter,
        row_count=row_count,
        seed=seed,
        image=image,
    )
    for b in busy_slots(counter, row_count):
        row = rows[b, counter[b]]
        z = _normal(x[b], seed[b], image[b], row["repeat"], row["step"], KIND_STEP)
        z_keep = z
        if row["keep_noise"]:
            z_keep = _normal(x[b], seed[b], image[b], row["repeat"], 0, KIND_BEGIN)
        uncond = None if o_uncond is None else o_uncond[b]
        with np.errstate(all="ignore"):
            x[b], h[b] = _update(x[b], h[b], guide[b], mask[b], o[b], uncond, z, z_keep, row)


def advance_numpy(rows: np.ndarray, counter: np.ndarray, row_count: np.ndarray, time: np.ndarray) -> None:
    """Move every busy slot to its next row and tell the network that row's time."""
    times = rows["time"]
    for b in busy_slots(counter, row_count):
        counter[b] += 1
        if counter[b] < row_count[b]:
            time[b] = times[b, counter[b]]


def _update(
    x: np.ndarray,
    h: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    o: np.ndarray,
    o_uncond: np.ndarray | None,
    z: np.ndarray,
    z_keep: np.ndarray,
    row: np.void,
) -> tuple[np.ndarray, np.ndarray]:
    """The step's arithmetic: x' and h' of one image."""
    if o_uncond is not None:
        o = o_uncond + row["guidance"] * (o - o_uncond)
    x0 = row["a_x"] * x + row["a_o"] * o
    x0 = np.where(x0 < -row["clip"], -row["clip"], x0)
    x0 = np.where(x0 > row["clip"], row["clip"], x0)
    last = np.where(m >= row["h_threshold"], h, x0)
    edit = ((row["c_x"] * x + row["c_0"] * x0) + row["c_h"] * last) + row["c_z"] * z
    keep = row["k_g"] * g + row["k_z"] * z_keep
    return np.where(m >= row["threshold"], edit, keep), x0


def _normal(like: np.ndarray, seed: int, image: int, repeat: int, step: int, kind: int) -> np.ndarray:
    z = normal_numpy(int(seed), int(image), int(repeat), int(step), kind, like.size)
    return z.reshape(like.shape)
