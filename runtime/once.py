"""Warnings that are given once in a process. Python's own filters repeat one whenever the program changes them."""

import warnings
from functools import cache


@cache
def warn_once(message: str) -> None:
    """Give a RuntimeWarning with this message, unless it was given before."""
    warnings.warn(f"sdedit: {message}", RuntimeWarning, stacklevel=3)
