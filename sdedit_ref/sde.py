"""Noise schedules as tables: row i is level k = i + 1 of T, clean to noisy, with alpha, sigma and the network's time.

x_k = alpha x0 + sigma z. float64 [T, 3] throughout.
"""

from collections.abc import Callable

import numpy as np

LEVELS = 1000


def variance_preserving(betas: np.ndarray) -> np.ndarray:
    """DDPM (Ho et al. 2020): alpha^2 = prod (1 - beta), alpha^2 + sigma^2 = 1, time = k - 1.

    The paper's VP SDE has alpha^2(t) = exp(-integral of beta); its Algorithms 4 and 5 already take the product, with
    beta(t) dt for beta. So an edit in fewer steps than levels has the levels' exact alpha here, not a coarser product.
    """
    squared = np.cumprod(1 - betas)
    # 1 - squared loses digits where squared is near 1; this sum of the same product does not.
    sigma = np.sqrt(-np.expm1(np.cumsum(np.log1p(-betas))))
    return np.stack([np.sqrt(squared), sigma, np.arange(len(betas), dtype=np.float64)], axis=1)


def linear(levels: int = LEVELS) -> np.ndarray:
    """DDPM's and the official SDEdit models': betas from 1e-4 to 0.02 whatever their number, 1000 as published."""
    return variance_preserving(np.linspace(1e-4, 0.02, levels))


def scaled_linear(levels: int = LEVELS) -> np.ndarray:
    """Latent diffusion's (Rombach et al. 2022) and diffusers' betas: the square of a line from 0.00085 to 0.012."""
    return variance_preserving(np.linspace(0.00085**0.5, 0.012**0.5, levels) ** 2)


def cosine(levels: int = LEVELS) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17: betas of alpha^2 = f(u) / f(0), f = cos^2((u + 0.008) / 1.008 pi / 2).

    The bound of 0.999 on beta, theirs too, is where the table leaves the formula: the last level's alpha is above 0.
    """
    u = np.arange(levels + 1) / levels
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return variance_preserving(np.minimum(1 - f[1:] / f[:-1], 0.999))


def variance_preserving_sde(levels: int = LEVELS, beta_min: float = 0.1, beta_max: float = 20.0) -> np.ndarray:
    """Song et al. 2021, eq. 33: log alpha = -t^2 (beta_max - beta_min) / 4 - t beta_min / 2 at t = k / T.

    The network's time is 999 t.
    """
    t = np.arange(1, levels + 1) / levels
    logarithm = -(t**2) * (beta_max - beta_min) / 4 - t * beta_min / 2
    return np.stack([np.exp(logarithm), np.sqrt(-np.expm1(2 * logarithm)), 999 * t], axis=1)


def sub_variance_preserving(levels: int = LEVELS) -> np.ndarray:
    """Song et al. 2021, eq. 34: alpha of variance_preserving_sde, sigma = 1 - alpha^2."""
    table = variance_preserving_sde(levels)
    table[:, 1] **= 2
    return table


def geometric(levels: int, sigma_min: float, sigma_max: float) -> np.ndarray:
    """sigma_min (sigma_max / sigma_min)^t at t = (k - 1) / (T - 1): [T]"""
    return sigma_min * (sigma_max / sigma_min) ** (np.arange(levels) / (levels - 1))


def exploding(own: np.ndarray, scale: float, time: np.ndarray) -> np.ndarray:
    """alpha = 1. own: sigma [T] in units of the network's data; data in [-1, 1] are `scale` times as wide."""
    return np.stack([np.ones(len(own)), scale * own, time], axis=1)


def variance_exploding(levels: int = LEVELS, sigma_min: float = 0.01, sigma_max: float = 348.0) -> np.ndarray:
    """Song et al. 2021: alpha = 1, sigma geometric, for networks of data in [0, 1]. In [-1, 1] sigma is twice as large.

    The network's time is its own sigma. The paper has t = k / T and sigma(0) = sigma_min; here the table's first level
    is sigma_min, and level 0 before it is clean.
    """
    own = geometric(levels, sigma_min, sigma_max)
    return exploding(own, 2.0, own)


def rectified_flow(levels: int = LEVELS) -> np.ndarray:
    """Liu et al. 2022: alpha = 1 - t, sigma = t at t = k / T; time is t. Table and formula are the same."""
    t = np.arange(1, levels + 1) / levels
    return np.stack([1 - t, t, t], axis=1)


SCHEDULES: dict[str, Callable[[int], np.ndarray]] = {
    "linear": linear,
    "scaled_linear": scaled_linear,
    "cosine": cosine,
}
"""Schedules of DDPM checkpoints, by name."""
