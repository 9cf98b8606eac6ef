"""Weights that are a function of names and shapes: the same on every machine, whatever made the network."""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sdedit.kernels.layout import KIND_STEP
from sdedit.kernels.step_c import normal_c


def normals(name: str, shape: Sequence[int]) -> np.ndarray:
    """A standard normal tensor, float32, that depends on the name."""
    return normal_c(zlib.crc32(name.encode()), 0, 0, 0, KIND_STEP, math.prod(shape)).reshape(shape)


def weight(name: str, shape: Sequence[int]) -> Tensor:
    """Weights of unit gain: norms near one, small biases, the rest scaled by the fan-in."""
    z = torch.from_numpy(normals(name, shape))
    if len(shape) >= 2:
        return z / math.sqrt(math.prod(shape[1:]))
    return 1 + 0.1 * z if name.endswith(".weight") else 0.1 * z


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
