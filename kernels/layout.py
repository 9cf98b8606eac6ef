"""The one layout of an edit's state: names, shapes and dtypes shared by every twin, device and exporter.

B slots, R rows a slot at most, C channels, H x W pixels; all arrays C-contiguous:

    x, h, guide, o, o_uncond   float32 [B, C, H, W]   state, last prediction, guide, network outputs
    mask                       float32 [B, H, W]      1 = edit, 0 = keep, between: from which fraction of t0 on
    rows                       ROW     [B, R]         the slots' plans
    counter, row_count         uint32  [B]            next row, number of rows; counter >= row_count: idle
    seed, image                uint64, uint32 [B]     what the noise is keyed on
    alpha0, sigma0             float32 [B]            the level at which a repeat begins
    time                       float32 [B]            of the next row, an input of the network
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import prod

import numpy as np

ROW = np.dtype(
    [
        ("time", "<f4"),
        ("a_x", "<f4"),
        ("a_o", "<f4"),
        ("clip", "<f4"),
        ("guidance", "<f4"),
        ("c_x", "<f4"),
        ("c_0", "<f4"),
        ("c_h", "<f4"),
        ("c_z", "<f4"),
        ("k_g", "<f4"),
        ("k_z", "<f4"),
        ("threshold", "<f4"),
        ("h_threshold", "<f4"),
        ("step", "<u4"),
        ("repeat", "<u4"),
        ("keep_noise", "<u4"),
    ]
)

MAX_ELEMENTS = 2**31 - 1
"""Elements of one image: their index must stay a signed 32-bit integer on every device."""

KIND_BEGIN = 0
KIND_STEP = 1

State = Mapping[str, np.ndarray]
"""The arrays of an edit's state by name. Without guidance it has no o_uncond; it may hold arrays of others."""

BEGIN_ARRAYS = ("x", "guide", "mask", "alpha0", "sigma0", "rows", "counter", "row_count", "seed", "image")
STEP_ARRAYS = ("x", "h", "guide", "mask", "o", "o_uncond", "rows", "counter", "row_count", "seed", "image")
ADVANCE_ARRAYS = ("rows", "counter", "row_count", "time")
"""Arrays that begin, step and advance use, in the order in which the C extension takes them."""


@lru_cache  # the kernels ask at every step
def state_arrays(slots: int, max_rows: int, shape: tuple[int, int, int]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of the state, by name, for images of `shape` = (C, H, W)."""
    image = (slots, *shape)
    float32, uint32, uint64 = np.dtype("<f4"), np.dtype("<u4"), np.dtype("<u8")
    return {
        "x": (image, float32),
        "h": (image, float32),
        "guide": (image, float32),
        "mask": ((slots, *shape[1:]), float32),
        "o": (image, float32),
        "o_uncond": (image, float32),
        "rows": ((slots, max_rows), ROW),
        "counter": ((slots,), uint32),
        "row_count": ((slots,), uint32),
        "seed": ((slots,), uint64),
        "image": ((slots,), uint32),
        "alpha0": ((slots,), float32),
        "sigma0": ((slots,), float32),
        "time": ((slots,), float32),
    }


def check_state(state: State, names: Sequence[str]) -> None:
    """Raise ValueError unless the arrays of these names fit together as `state_arrays` says; o_uncond may be missing.

    x, rows and row_count must be among the names.
    """
    x, rows = state["x"], state["rows"]
    if x.ndim != 4 or rows.ndim != 2:
        raise ValueError(f"x is [B, C, H, W] and rows [B, R], got shapes {x.shape} and {rows.shape}")
    slots, *image = x.shape
    if not 0 < prod(image) <= MAX_ELEMENTS:
        raise ValueError(f"an image of shape {tuple(image)} is not in 1..{MAX_ELEMENTS} elements")
    expected = state_arrays(slots, rows.shape[1], (image[0], image[1], image[2]))
    for name in names:
        if name == "o_uncond" and name not in state:
            continue
        array, (shape, dtype) = state[name], expected[name]
        if array.shape != shape or array.dtype != dtype or not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(
                f"{name} must be C-contiguous {dtype_name(dtype)} {list(shape)}, "
                f"got {dtype_name(array.dtype)} {list(array.shape)}"
            )
    if max(state["row_count"].tolist(), default=0) > rows.shape[1]:
        raise ValueError(f"row_count {state['row_count'].max()} exceeds the {rows.shape[1]} rows there are")


def dtype_name(dtype: np.dtype) -> str:
    return "ROW" if dtype == ROW else dtype.name


def busy_slots(counter: np.ndarray, row_count: np.ndarray) -> list[int]:
    """The slots that still have a row to run."""
    pairs = zip(counter.tolist(), row_count.tolist(), strict=True)  # of a few slots, numpy would take ten times as long
    return [slot for slot, (now, end) in enumerate(pairs) if now < end]


def allocate_state(slots: int, max_rows: int, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Zeroed arrays of the state; every slot is idle."""
    return {name: np.zeros(*spec) for name, spec in state_arrays(slots, max_rows, shape).items()}
