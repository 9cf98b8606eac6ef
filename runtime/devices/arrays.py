"""The arrays of a device by name: the kernels' state, and the network's other inputs."""

from collections.abc import Mapping

import numpy as np

from sdedit.kernels.layout import state_arrays

from ..bundle import TensorSpec
from ..plan import MAX_ROWS

ArraySpecs = Mapping[str, tuple[tuple[int, ...], np.dtype]]
"""Shape, with the slots in front, and dtype of each array by name."""


def device_arrays(inputs: Mapping[str, TensorSpec], slots: int, guided: bool) -> ArraySpecs:
    """Shape and dtype of every array of the device: the kernels' state, and the network's other inputs.

    guided: with o_uncond, and an array of its own for each condition of the unconditional pass.
    """
    channels, height, width = inputs["x"].shape
    arrays = dict(state_arrays(slots, MAX_ROWS, (channels, height, width)))
    if not guided:
        del arrays["o_uncond"]
    for name, spec in inputs.items():
        for array in (name, null_name(name)) if guided else (name,):
            arrays.setdefault(array, ((slots, *spec.shape), spec.dtype))
    return arrays


def null_name(name: str) -> str:
    """The array from which the unconditional pass reads an input: its own for a condition, else the same."""
    return name if name in ("x", "time") else f"null_{name}"
