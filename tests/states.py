"""Random states of slots for the kernels' tests, and the comparison by bits."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from sdedit.kernels.layout import ROW, STEP_ARRAYS, allocate_state

SHAPES = [(1, 1, 1), (3, 1, 1), (1, 7, 9), (3, 5, 7), (1, 10, 100), (3, 16, 16), (4, 8, 13), (3, 33, 31)]
"""1, 63 and 1000 elements among them; sizes below, at and above the C twin's block of 256, channels across blocks."""

ANY_SHAPES = st.sampled_from(SHAPES) | st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))

SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1.0], np.float32)


State = dict[str, np.ndarray]


def random_state(
    rng: np.random.Generator, shape: tuple[int, int, int], slots: int = 3, max_rows: int = 4, special: float = 0.0
) -> dict[str, np.ndarray]:
    """A state in which every slot has a plan of its own and every column varies.

    special: the fraction of image values that are NaN, infinite, denormal or signed zeros.
    """
    state = allocate_state(slots, max_rows, shape)
    for name in ("x", "h", "guide", "o", "o_uncond"):
        values = rng.standard_normal(state[name].shape).astype(np.float32)
        where = rng.random(values.shape) < special
        values[where] = rng.choice(SPECIAL, int(where.sum()))
        state[name][:] = values
    state["mask"][:] = rng.integers(0, 5, state["mask"].shape) / np.float32(4)
    rows = state["rows"]
    for name in ROW.names or ():
        rows[name] = rng.standard_normal(rows.shape)
    rows["clip"] = rng.choice([0.5, 1.0, np.inf], rows.shape)
    rows["threshold"] = rng.integers(0, 5, rows.shape) / 4  # boundaries are hit exactly
    rows["h_threshold"] = rng.choice([0.25, 0.5, 1.0, np.inf], rows.shape)
    rows["step"] = rng.choice([0, 1, 2, 2**32 - 1], rows.shape)
    rows["repeat"] = rng.choice([0, 1, 2**31 - 1], rows.shape)
    rows["keep_noise"] = rng.integers(0, 2, rows.shape)
    state["row_count"][:] = rng.integers(0, max_rows + 1, slots)
    state["counter"][:] = rng.integers(0, max_rows + 2, slots)
    state["seed"][:] = rng.integers(0, 2**64, slots, dtype=np.uint64)
    state["image"][:] = rng.integers(0, 2**32, slots, dtype=np.uint32)
    state["alpha0"][:], state["sigma0"][:] = rng.standard_normal((2, slots))
    return state


def copy_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in state.items()}


def step_state(state: dict[str, np.ndarray], guided: bool) -> dict[str, np.ndarray]:
    """The same arrays, without o_uncond if there is no guidance."""
    return {name: array for name, array in state.items() if name != "o_uncond" or guided}


def step_arguments(state: dict[str, np.ndarray], guided: bool) -> list[Any]:
    """The arrays as the C extension takes them."""
    return [step_state(state, guided).get(name) for name in STEP_ARRAYS]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the arrays are equal bit for bit; all NaNs count as equal."""
    return a.dtype == b.dtype and bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


seeds = st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1])
