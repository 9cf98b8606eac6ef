"""A Gaussian has an exact denoiser, so every sampler's moments follow from its rows alone. Closed forms, float64.

Data: every pixel x0 ~ N(MU, TAU^2), independent. At level (a, s): x ~ N(a MU, a^2 TAU^2 + s^2).
"""

import numpy as np

from sdedit.runtime.plan import Plan
from sdedit.runtime.schedule import Level, Schedule
from sdedit_ref import sde

MU, TAU = 0.3, 0.25

SCHEDULES = {
    "vp-linear": Schedule(sde.linear()),
    "vp-cosine": Schedule(sde.cosine()),
    "ve": Schedule(sde.variance_exploding(sigma_max=25.0)),
    "flow": Schedule(sde.rectified_flow()),
}


def denoiser(level: Level) -> tuple[float, float]:
    """A, B such that E[x0 | x] = A x + B."""
    a, s, _ = level
    gain = a * TAU**2 / (a * a * TAU**2 + s * s)
    return gain, MU - gain * a * MU


def predict(x: np.ndarray, level: Level, prediction: str) -> np.ndarray:
    """Output of a perfect network with that prediction type."""
    a, s, _ = level
    gain, offset = denoiser(level)
    x0 = gain * x + offset
    z = (x - a * x0) / s
    return {"eps": z, "v": a * z - s * x0, "x0": x0, "flow": z - x0}[prediction]


def final_moments(plan: Plan, levels: list[Level], guide: float) -> tuple[float, float]:
    """Mean and variance of an edited pixel after the plan's one repeat, from the rows, by a 2x2 recursion on (x, h)."""
    mean = np.array([plan.alpha0 * guide, 0.0])
    covariance = np.array([[plan.sigma0**2, 0.0], [0.0, 0.0]])
    for row, level in zip(plan.rows, levels, strict=True):
        gain, offset = denoiser(level)
        c_x, c_0, c_h, c_z = (float(row[name]) for name in ("c_x", "c_0", "c_h", "c_z"))
        fresh = np.isinf(row["h_threshold"])
        forward = np.array([[c_x + (c_0 + c_h * fresh) * gain, c_h * (not fresh)], [gain, 0.0]])
        mean = forward @ mean + np.array([(c_0 + c_h * fresh) * offset, offset])
        covariance = forward @ covariance @ forward.T + np.diag([c_z**2, 0.0])
    return float(mean[0]), float(covariance[0, 0])


def exact_moments(start: Level, guide: float, eta: float) -> tuple[float, float]:
    """Mean and variance that the exact reverse process gives from `start`: the ODE (eta 0) or the SDE (eta 1)."""
    a, s, _ = start
    total = a * a * TAU**2 + s * s
    if eta == 0:
        gain = TAU / np.sqrt(total)
        return MU + gain * a * (guide - MU), gain**2 * s * s
    gain = a * TAU**2 / total
    return MU + gain * a * (guide - MU), gain**2 * s * s + TAU**2 * s * s / total


WEIGHTS, CENTRES, WIDTHS = np.array([0.3, 0.7]), np.array([-0.6, 0.5]), np.array([0.15, 0.2])
"""A mixture of two Gaussians, every pixel independent: its denoiser is not linear."""


def mixture_posterior(x: np.ndarray, a: float, s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Posterior of x0 given x at (a, s): weights [..., 2] of both Gaussians, their means [..., 2], variances [2]."""
    total = a * a * WIDTHS**2 + s * s
    distance = x[..., None] - a * CENTRES
    log_share = np.log(WEIGHTS) - distance**2 / (2 * total) - np.log(total) / 2
    share = np.exp(log_share - log_share.max(axis=-1, keepdims=True))
    means = CENTRES + a * WIDTHS**2 / total * distance
    return share / share.sum(axis=-1, keepdims=True), means, WIDTHS**2 * s * s / total


def mixture_denoiser(x: np.ndarray, a: float, s: float) -> np.ndarray:
    """E[x0 | x]"""
    share, means, _ = mixture_posterior(x, a, s)
    return (share * means).sum(axis=-1)


def mixture_moments(a: float, s: float, guide: float) -> tuple[float, float]:
    """First and second moment of the exact reverse SDE's result from (a, s): the mean over z of x0 given a g + s z."""
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    share, means, variances = mixture_posterior(a * guide + s * z, a, s)
    weight = weight / weight.sum()
    return float(weight @ (share * means).sum(axis=-1)), float(weight @ (share * (means**2 + variances)).sum(axis=-1))
