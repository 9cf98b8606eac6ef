"""Devices hold the state of B slots and run begin and steps on it. Importing this module imports none of them.

They may be ahead of what is done: `read` waits, the others need not.
"""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from ..engines import CudaEngine, Engine

DEVICES = ("cpu", "cuda")


class Device(Protocol):
    """Static buffers for the arrays of kernels.layout, and the two launches that an edit is made of.

    kernels: which ones, for the recipe. After a failure of the device itself, calls raise EngineError.
    """

    name: str
    kernels: str
    slots: int

    @property
    def engine(self) -> Engine | CudaEngine:
        """What evaluates the network."""

    def write(self, slot: int, values: Mapping[str, np.ndarray | np.generic]) -> None:
        """Copy values into one slot's part of the arrays of those names; rows may be fewer than there is room for."""

    def read(self, slot: int, name: str) -> np.ndarray:
        """A copy of one slot's part of an array."""

    def release(self, slot: int) -> None:
        """Make the slot idle; no error where the device is lost."""

    def begin(self) -> None:
        """Noise the guide in every slot whose next row is the first of a repeat."""

    def step(self) -> None:
        """Network, step and advance in every busy slot."""

    def close(self) -> None:
        """Let go of what it holds outside this process's memory; it is of no use afterwards."""
