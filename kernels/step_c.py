"""begin, step and noise in C (_step.c): the same contracts and bits as step_numpy.py and noise.py, many times faster.

Importing this module raises ImportError where the extension was not built.
"""

import numpy as np

from . import _step
from .layout import check_state
from .noise import check_noise_key


def begin_c(
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
    """As begin_numpy."""
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
    slots, channels, height, width = x.shape
    sizes = (slots, rows.shape[1], channels, height * width)
    _step.begin(x, guide, mask, alpha0, sigma0, rows, counter, row_count, seed, image, *sizes)


def step_c(
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
    """As step_numpy."""
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
    slots, channels, height, width = x.shape
    sizes = (slots, rows.shape[1], channels, height * width)
    _step.step(x, h, guide, mask, o, o_uncond, rows, counter, row_count, seed, image, *sizes)


def normal_c(seed: int, image: int, repeat: int, step: int, kind: int, size: int) -> np.ndarray:
    """As normal_numpy."""
    check_noise_key(seed, image, repeat, step, kind, size)
    z = np.empty(size, np.float32)
    _step.normal(z, seed, image, repeat, step, kind)
    return z
