"""begin, step and advance in numpy: the definition of the kernels. The other twins give the same bits.

Every product and sum is rounded to float32 in the order written; nothing is fused or flushed to zero. A NaN stays a
NaN, whatever its payload. Arrays are those of layout.py and are updated in place; idle slots are not touched.

numpy cannot set the processor's floating-point mode, as the C twin does. If the program made this thread flush small
numbers to zero, the bits would differ from the contract's, so that begin and step raise an error.
"""

import numpy as np

from sdedit.errors import EngineError

from .layout import (
    ADVANCE_ARRAYS,
    BEGIN_ARRAYS,
    KIND_BEGIN,
    KIND_STEP,
    STEP_ARRAYS,
    State,
    busy_slots,
    check_state,
)
from .noise import normal_numpy

SMALL = np.full(1, 1e-40, np.float32)
"""A denormal number: a thread that flushes such numbers to zero reads or returns 0 for it."""


def begin_numpy(state: State) -> None:
    """Noise the guide: x = alpha0 g + sigma0 z, in every slot whose next row is the first of a repeat.

    From the second repeat on, the pixels that the last one edited are the new guide: g <- x where m >= the last row's
    threshold. Raises ValueError unless the arrays are those of layout.py, EngineError if this thread flushes to zero.
    """
    check_state(state, BEGIN_ARRAYS)
    _check_floating_point()
    x, guide, mask, alpha0, sigma0, rows, counter, row_count, seed, image = (state[name] for name in BEGIN_ARRAYS)
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


def step_numpy(state: State) -> None:
    """Run one row of every busy slot's plan: x and h become x' and h'.

    o is the network's output at x. With o_uncond, o is the conditional output, and the row's guidance mixes the two.
    Raises ValueError unless the arrays are those of layout.py, EngineError if this thread flushes to zero.
    """
    check_state(state, STEP_ARRAYS)
    _check_floating_point()
    s = state
    for b in busy_slots(s["counter"], s["row_count"]):
        row = s["rows"][b, s["counter"][b]]
        x, seed, image = s["x"][b], s["seed"][b], s["image"][b]
        z = _normal(x, seed, image, row["repeat"], row["step"], KIND_STEP)
        z_keep = _normal(x, seed, image, row["repeat"], 0, KIND_BEGIN) if row["keep_noise"] else z
        uncond = s["o_uncond"][b] if "o_uncond" in s else None
        with np.errstate(all="ignore"):
            s["x"][b], s["h"][b] = _update(x, s["h"][b], s["guide"][b], s["mask"][b], s["o"][b], uncond, z, z_keep, row)


def advance_numpy(state: State) -> None:
    """Move every busy slot to its next row, and write that row's time, an input of the network."""
    rows, counter, row_count, time = (state[name] for name in ADVANCE_ARRAYS)
    times = rows["time"]
    for b in busy_slots(counter, row_count):
        counter[b] += 1
        if counter[b] < row_count[b]:
            time[b] = times[b, counter[b]]


def _check_floating_point() -> None:
    """Raise EngineError if this thread reads or returns denormal numbers as zero."""
    if (SMALL * np.float32(1)).view(np.uint32)[0] == 0:
        raise EngineError(
            "this thread flushes small floating-point numbers to zero (torch.set_flush_denormal, -ffast-math), "
            "which the numpy kernels cannot undo: turn it off, or build the C extension"
        )


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
