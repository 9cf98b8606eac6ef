"""How good a score network is during training: its error on held-out views, and samples to look at."""

import itertools
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy

AT_ONCE = 16
"""Images in one evaluation of the network; more take more memory."""


def denoising_error(
    network: nn.Module, prediction: str, schedule: Tensor, x0: Tensor, k: Tensor, z: Tensor, precision: torch.dtype
) -> Tensor:
    """Mean squared error of the prediction (eps or v) for x0 [B, C, H, W] noised by z to the levels k [B]; [B]."""
    alpha, sigma, time = schedule[k - 1].unbind(1)
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    target = z if prediction == "eps" else a * z - s * x0
    with torch.autocast(x0.device.type, precision, enabled=precision != torch.float32):
        out = network(a * x0 + s * z, time)
    return (out.float() - target).square().mean(dim=(1, 2, 3))


@torch.inference_mode()
def held_out_loss(network: nn.Module, prediction: str, schedule: Tensor, views: Tensor) -> float:
    """Unweighted mean of the error over `views` [N, C, H, W] at ten levels; the noise is always the same."""
    z = noise(views.shape).to(views.device)
    errors = []
    for part in range(10):
        k = round(len(schedule) * (part + 0.5) / 10)
        for x0, e in zip(views.split(AT_ONCE), z.split(AT_ONCE), strict=True):
            ks = torch.full((len(x0),), k, device=views.device)
            errors.append(denoising_error(network, prediction, schedule, x0, ks, e, torch.float32))
    return float(torch.cat(errors).mean())


@torch.inference_mode()
def sample(
    network: nn.Module, prediction: str, schedule: Tensor, shape: tuple[int, ...], steps: int = 50, clip: float = 1.0
) -> Tensor:
    """Samples [B, C, H, W] from pure noise, by DDIM (Song et al. 2021) with predictions of x0 in [-clip, clip].

    prediction: eps or v. clip: 1 for pictures, inf for latents. schedule: float32 [T, 3]. The levels are
    those of docs/design.md, contract 1; the number of steps is at most T. It is for pictures of a run's progress;
    sdedit.evaluation measures what the runtime makes.
    """
    last = len(schedule)
    steps = min(steps, last)
    ks = [(2 * n * last + steps) // (2 * steps) for n in range(steps, -1, -1)]
    x = schedule[last - 1, 1] * noise(shape).to(schedule.device)
    for k, k_next in itertools.pairwise(ks):
        a, s, time = schedule[k - 1]
        a_next, s_next = schedule[k_next - 1, :2] if k_next else (1.0, 0.0)
        out = torch.cat([network(part, time.expand(len(part))) for part in x.split(AT_ONCE)])
        x0 = ((x - s * out) / a if prediction == "eps" else a * x - s * out).clamp(-clip, clip)
        x = a_next * x0 + s_next * (x - a * x0) / s
    return x


def sheet(images: Tensor, columns: int) -> Image.Image:
    """One picture of images [B, C, H, W] in [-1, 1], row by row; B is a multiple of `columns`."""
    b, c, h, w = images.shape
    pixels = ((images.cpu() + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    grid = pixels.reshape(b // columns, columns, c, h, w).transpose(0, 3, 1, 4, 2)
    return Image.fromarray(grid.reshape(b // columns * h, columns * w, c))


def noise(shape: tuple[int, ...]) -> Tensor:
    """Noise of seed 0 (docs/design.md, contract 3), image by image: float32 [B, C, H, W]."""
    z = [normal_numpy(0, image, 0, 0, KIND_BEGIN, math.prod(shape[1:])) for image in range(shape[0])]
    return torch.from_numpy(np.stack(z).reshape(shape))
