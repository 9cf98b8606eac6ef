"""SDEdit as printed: Algorithms 2 to 5 of Meng et al. (ICLR 2022) and the official code, in the paper's symbols.

Every function works in the dtype and on the device of the guide, with any callable as the network and its noise given:

    s(x, n)   the score at t = t0 n / N for the state x [B, C, H, W], of x's shape; `score` makes one of a network
    z(k, n)   standard normals of the guide's shape: n = N..1 for the draw of step n in repeat k = 0..K-1, and n = 0 for
              the draw at the beginning of the repeat; `noise` makes the runtime's
    levels    alpha(t), sigma(t) at t = t0 n / N for n = 0..N, clean first; `levels` takes them from a schedule's table

M is 1 where the image may change; its shape is [H, W] or the guide's. Print and code differ in two things. The printed
sigma(0) of VE is sigma_min; here level 0 is clean. The last printed line adds noise of the first level's sigma to the
result; the functions add it only with last_noise=True.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy

Score = Callable[[Tensor, int], Tensor]
Noise = Callable[[int, int], Tensor]
Level = tuple[float, float]
"""alpha, sigma: x(t) = alpha x(0) + sigma z."""


def algorithm_2(s: Score, g: Tensor, levels: Sequence[Level], z: Noise, last_noise: bool = False) -> Tensor:
    """Guided image synthesis and editing with a VE SDE."""
    sigma = [sigma for _, sigma in levels]
    N = len(levels) - 1
    x = g + sigma[N] * z(0, 0)
    for n in range(N, 0, -1):
        e = math.sqrt(sigma[n] ** 2 - sigma[n - 1] ** 2)
        x = x + e**2 * s(x, n) + _unless_last(e, n, last_noise) * z(0, n)
    return x


def algorithm_3(
    s: Score, g: Tensor, M: Tensor, levels: Sequence[Level], z: Noise, K: int = 1, last_noise: bool = False
) -> Tensor:
    """The same with a mask, K times. The kept region of the result has the first level's noise."""
    sigma = [sigma for _, sigma in levels]
    N = len(levels) - 1
    x = g
    for k in range(K):
        x = (1 - M) * (g + sigma[N] * z(k, 0)) + M * (x + sigma[N] * z(k, 0))
        for n in range(N, 0, -1):
            e = math.sqrt(sigma[n] ** 2 - sigma[n - 1] ** 2)
            edit = x + e**2 * s(x, n) + _unless_last(e, n, last_noise) * z(k, n)
            x = (1 - M) * (g + sigma[n] * z(k, n)) + M * edit
    return x


def algorithm_4(s: Score, g: Tensor, levels: Sequence[Level], z: Noise, last_noise: bool = False) -> Tensor:
    """Guided image synthesis and editing with a VP SDE; alpha(t)^2 = prod(1 - beta dt), which gives beta(t) dt."""
    alpha = [alpha for alpha, _ in levels]
    N = len(levels) - 1
    x = alpha[N] * g + levels[N][1] * z(0, 0)
    for n in range(N, 0, -1):
        beta_dt = 1 - (alpha[n] / alpha[n - 1]) ** 2
        noise = _unless_last(math.sqrt(beta_dt), n, last_noise) * z(0, n)
        x = (x + beta_dt * s(x, n)) / math.sqrt(1 - beta_dt) + noise
    return x


def algorithm_5(
    s: Score, g: Tensor, M: Tensor, levels: Sequence[Level], z: Noise, K: int = 1, last_noise: bool = False
) -> Tensor:
    """The same with a mask, K times. The kept region of the result has the first level's noise."""
    N = len(levels) - 1
    alpha, sigma = zip(*levels, strict=True)
    x = g
    for k in range(K):
        x = (1 - M) * (alpha[N] * g + sigma[N] * z(k, 0)) + M * (alpha[N] * x + sigma[N] * z(k, 0))
        for n in range(N, 0, -1):
            beta_dt = 1 - (alpha[n] / alpha[n - 1]) ** 2
            noise = _unless_last(math.sqrt(beta_dt), n, last_noise) * z(k, n)
            edit = (x + beta_dt * s(x, n)) / math.sqrt(1 - beta_dt) + noise
            x = (1 - M) * (alpha[n] * g + sigma[n] * z(k, n)) + M * edit
    return x


def official(eps: Score, g: Tensor, M: Tensor, betas: Sequence[float], z: Noise, K: int = 1) -> Tensor:
    """The official code. It visits every level of `betas` [N = t0 T]; its `t` is n - 1.

    It differs from Algorithm 5: it has the smaller variance of the posterior (Ho et al. 2020, "fixed small") and no
    noise in the last step; eps(x, n) is the network's output; the kept region has one draw per repeat, the first.
    """
    N = len(betas)
    alphas_cumprod = [1.0, *np.cumprod(1 - np.asarray(betas, np.float64)).tolist()]
    x0 = g
    for k in range(K):
        e = z(k, 0)
        x = math.sqrt(alphas_cumprod[N]) * x0 + math.sqrt(1 - alphas_cumprod[N]) * e
        for n in range(N, 0, -1):
            beta, a, a_next = betas[n - 1], alphas_cumprod[n], alphas_cumprod[n - 1]
            mean = (x - beta / math.sqrt(1 - a) * eps(x, n)) / math.sqrt(1 - beta)
            variance = beta * (1 - a_next) / (1 - a)
            edit = mean + math.sqrt(variance) * z(k, n) if n > 1 else mean
            x = (1 - M) * (math.sqrt(a) * x0 + math.sqrt(1 - a) * e) + M * edit
        x0 = (1 - M) * x0 + M * x
    return x


def levels(schedule: np.ndarray, ks: Sequence[int]) -> list[Level]:
    """alpha and sigma of the clean level and of the levels `ks` (noisiest first, as of `Schedule.visit`), clean first.

    schedule: [T, 3].
    """
    visited = [(float(alpha), float(sigma)) for alpha, sigma, _ in schedule[np.asarray(ks) - 1]]
    return [(1.0, 0.0), *reversed(visited)]


def score(
    network: Callable[[Tensor, Tensor], Tensor], prediction: str, schedule: np.ndarray, ks: Sequence[int]
) -> Score:
    """The score (alpha x0 - x) / sigma^2 that a network(x, time [B]) implies by predicting eps, v, x0 or flow (z - x0).

    ks: the visited levels, noisiest first; n counts them from the end.
    """

    def s(x: Tensor, n: int) -> Tensor:
        alpha, sigma, time = map(float, schedule[ks[-n] - 1])
        o = network(x, torch.full((len(x),), time, dtype=x.dtype, device=x.device))
        if prediction == "eps":
            return -o / sigma
        if prediction == "flow":
            x0 = (x - sigma * o) / (alpha + sigma)
        elif prediction == "v":
            x0 = alpha * x - sigma * o
        elif prediction == "x0":
            x0 = o
        else:
            raise ValueError(f"prediction {prediction!r} is not one of eps, v, x0, flow")
        return (alpha * x0 - x) / sigma**2

    return s


def noise(like: Tensor, seed: int, steps: int, image: int = 0) -> Noise:
    """The runtime's noise (docs/design.md, contract 3) for a guide like `like` [B, C, H, W], from image `image` on."""

    def z(k: int, n: int) -> Tensor:
        kind, step = (KIND_STEP, steps - n) if n else (KIND_BEGIN, 0)
        size = like[0].numel()
        draws = [normal_numpy(seed, image + index, k, step, kind, size) for index in range(len(like))]
        return torch.from_numpy(np.stack(draws)).reshape(like.shape).to(like)

    return z


def _unless_last(deviation: float, n: int, last_noise: bool) -> float:
    return deviation if n > 1 or last_noise else 0.0
