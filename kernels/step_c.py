"""begin, step and noise in C (_step.c): the same contracts and bits as step_numpy.py and noise.py, many times faster.

Importing this module raises ImportError if the extension was not built.
"""

import numpy as np

from . import _step
from .layout import BEGIN_ARRAYS, STEP_ARRAYS, State, check_state
from .noise import check_noise_key


def begin_c(state: State) -> None:
    """The same as begin_numpy."""
    check_state(state, BEGIN_ARRAYS)
    _step.begin(*(state[name] for name in BEGIN_ARRAYS), *_sizes(state))


def step_c(state: State) -> None:
    """The same as step_numpy."""
    check_state(state, STEP_ARRAYS)
    _step.step(*(state.get(name) for name in STEP_ARRAYS), *_sizes(state))


def _sizes(state: State) -> tuple[int, int, int, int]:
    """Slots, rows a slot, channels, pixels."""
    slots, channels, height, width = state["x"].shape
    return slots, state["rows"].shape[1], channels, height * width


def normal_c(seed: int, image: int, repeat: int, step: int, kind: int, size: int) -> np.ndarray:
    """The same as normal_numpy."""
    check_noise_key(seed, image, repeat, step, kind, size)
    z = np.empty(size, np.float32)
    _step.normal(z, seed, image, repeat, step, kind)
    return z
