"""The contents of a checkpoint file of the tiny DDPM, and torch's outputs with it."""

import numpy as np
import torch
from tiny import tiny_ddpm
from torch import Tensor

from sdedit_ref.networks.ddpm import DDPM

METADATA = {"prediction": "v", "betas": "cosine", "image_size": "16", "patch": "2", "timesteps": "100"}

Tensors = dict[str, Tensor]


def state(patch: int = 2) -> Tensors:
    return {key: value.clone() for key, value in tiny_ddpm(patch).state_dict().items()}


def run_torch(network: DDPM, x: np.ndarray, time: float) -> np.ndarray:
    with torch.inference_mode():
        return network(torch.from_numpy(x), torch.tensor([time])).numpy()


def some_x(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
