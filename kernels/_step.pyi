"""The C extension's functions as step_c.py calls them; the arguments' meaning is documented there."""

import numpy as np

def step(
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
    slots: int,
    max_rows: int,
    channels: int,
    pixels: int,
    /,
) -> None: ...
def begin(
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
    slots: int,
    max_rows: int,
    channels: int,
    pixels: int,
    /,
) -> None: ...
def normal(out: np.ndarray, seed: int, image: int, repeat: int, step: int, kind: int, /) -> None: ...
