"""Devices hold the state of B slots and run begin and steps on it. Importing this module imports none of them."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np


class Device(Protocol):
    """Static buffers for the arrays of kernels.layout, and the two launches that an edit is made of."""

    name: str
    slots: int

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        """Copy values into one slot's part of the arrays of those names; rows may be fewer than there is room for."""

    def read(self, slot: int, name: str) -> np.ndarray:
        """A copy of one slot's part of an array."""

    def begin(self) -> None:
        """Noise the guide in every slot whose next row is the first of a repeat."""

    def step(self) -> None:
        """Network, step and advance in every busy slot."""
