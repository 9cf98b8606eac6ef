"""The fused step and its noise: numpy defines them, C is the twin for CPUs. `twin` is the one place that chooses.

The Triton twin (step_triton.py) is never chosen here: export compiles it ahead of time.
"""

import warnings
from collections.abc import Callable
from typing import NamedTuple

from sdedit.errors import raise_interrupt

from .noise import normal_numpy
from .step_numpy import advance_numpy, begin_numpy, step_numpy

__all__ = ["TWINS", "Twin", "twin"]

TWINS = ("c", "numpy")


class Twin(NamedTuple):
    """One implementation of the kernels; all of them give the same bits."""

    name: str
    begin: Callable[..., None]
    step: Callable[..., None]
    advance: Callable[..., None]
    normal: Callable[..., object]


def twin(name: str = "auto") -> Twin:
    """The kernels by name; "auto" is C if the extension was built, else numpy, and then a warning says so.

    Raises ValueError for an unknown name, ImportError for "c" without the extension.
    """
    if name == "numpy":
        return Twin("numpy", begin_numpy, step_numpy, advance_numpy, normal_numpy)
    if name not in ("auto", *TWINS):
        raise ValueError(f"twin {name!r} is not one of auto, {', '.join(TWINS)}")
    try:
        from .step_c import begin_c, normal_c, step_c
    except ImportError as error:
        raise_interrupt(error)
        if name == "c":
            raise
        warnings.warn(
            "sdedit: the C extension is not built; the numpy twin is used (same bits, slower)",
            RuntimeWarning,
            stacklevel=2,
        )
        return twin("numpy")
    return Twin("c", begin_c, step_c, advance_numpy, normal_c)
