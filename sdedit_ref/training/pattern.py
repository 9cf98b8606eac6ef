"""The gain of a network's Pattern, in closed form from the noise levels."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..networks.ddpm import DDPM

POWER = 1e-3
"""Power of the pattern of pictures, where noise of deviation 1 has 1.

Views of the Earth of 64x64 have 0.0097 on average, by their edges, and the most even eighth of them, where a pattern is
seen, 0.0003. With 1e-3 edits of even seas have no more of it than those views.
"""

RIDGE = 1e-6


def wanted_gain(schedule: Tensor, prediction: str) -> Tensor:
    """The factor from x's pattern to the prediction's, float64 [T], for the levels of the schedule [T, 3].

    Of x = alpha x0 + sigma z with x0 normal of that power, E[x0 | x] is w x (Wiener); v = alpha z - sigma x0.
    """
    alpha, sigma = schedule.double().unbind(1)[:2]
    w = alpha * POWER / ((alpha * alpha * POWER) + sigma * sigma)
    noise = (1 - alpha * w) / sigma
    return noise if prediction == "eps" else alpha * noise - sigma * w


@torch.no_grad()
def fit_pattern(network: DDPM, schedule: Tensor, prediction: str) -> None:
    """Set the gain as near to the wanted one as the network's time embedding allows: least squares of x0's error.

    schedule: float32 [T, 3]. A network without a Pattern stays as it is.
    """
    if network.pattern is None:
        return
    levels = torch.arange(1, len(schedule) + 1, device=schedule.device)
    features = F.silu(network.temb(levels)).double().cpu()
    features = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    sigma = schedule[:, 1:2].double().cpu()
    weighted, wanted = features * sigma, wanted_gain(schedule, prediction).cpu()[:, None] * sigma
    square = weighted.T @ weighted + RIDGE * torch.eye(weighted.shape[1])
    fitted = torch.linalg.solve(square, weighted.T @ wanted)[:, 0]
    network.pattern.gain.weight.copy_(fitted[None, :-1])
    network.pattern.gain.bias.copy_(fitted[-1:])
