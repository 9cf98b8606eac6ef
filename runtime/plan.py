"""The plan of an edit: one row of coefficients per network evaluation. All samplers are one formula here.

The notation is that of docs/design.md: the level now is (a, s), the next cleaner one (a', s'); r = a / a'.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sdedit.errors import PlanError
from sdedit.kernels.layout import ROW

from .schedule import CLEAN, Level, Schedule

MAX_ROWS = 4096
"""Largest number of network evaluations of one edit: the rows that fit the static buffers."""


@dataclass(frozen=True)
class Sampler:
    """A preset of the one formula: amount of noise, predictions used, and the noise's variance."""

    eta: float  # 0: deterministic, 1: the posterior's variance
    order: int = 1  # 2: extrapolate from the last prediction
    wide: bool = False  # True: the paper's larger variance, s^2 - r^2 s'^2
    renoise: bool = False  # True: x0 is noised anew to each level, and x is forgotten


SamplerName = Literal["ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler", "euler_maruyama", "lcm"]
"""The names of SAMPLERS, for editors that complete them and for type checkers."""

SAMPLERS = {
    "ancestral": Sampler(eta=1.0),
    "ddim": Sampler(eta=0.0),
    "dpmpp_2m": Sampler(eta=0.0, order=2),
    "dpmpp_2m_sde": Sampler(eta=1.0, order=2),
    "euler": Sampler(eta=0.0),
    "euler_maruyama": Sampler(eta=1.0, wide=True),
    "lcm": Sampler(eta=1.0, renoise=True),
}

KeepName = Literal["fresh", "fixed", "paper", "official"]
KEEPS: tuple[KeepName, ...] = get_args(KeepName)


@dataclass(frozen=True)
class Plan:
    """The rows that one slot runs.

    rows: ROW [n], one per network evaluation. alpha0, sigma0: the level at which each repeat begins. keeps_exactly:
    whether the last row leaves the kept pixels clean, so that they equal the guide's.
    """

    rows: np.ndarray
    alpha0: float
    sigma0: float
    keeps_exactly: bool


def fill_rows(
    levels: Sequence[Level], eta: float, order: int, wide: bool, renoise: bool = False
) -> list[tuple[float, float, float, float]]:
    """The coefficients c_x, c_0, c_h, c_z of each step from one of `levels` to the next; the last level is clean.

    eta in [0, 1] scales the noise of DDIM's family (Song et al. 2021, eq. 16). order 2 is DPM-Solver++ (2M) (Lu et al.
    2022, Algorithm 2) and, with eta = 1, its SDE form. wide takes the noise of SDEdit's Algorithms 2 to 5, which is
    larger. renoise is the multistep sampling of consistency models (Song et al. 2023, Algorithm 1): eta counts no more.
    """
    rows = []
    previous_gap = None
    for (a, s, _), (a_next, s_next, _) in itertools.pairwise(levels):
        if s_next == 0:
            rows.append((0.0, 1.0, 0.0, 0.0))
            break
        r = a / a_next
        e = math.sqrt(max(s * s - r * r * s_next * s_next, 0.0))
        d = s_next if renoise else eta * e * s_next / s
        c_x = math.sqrt(max(s_next * s_next - d * d, 0.0)) / s
        c_0 = a_next - a * c_x
        c_h = 0.0
        gap = math.log(a_next * s / (a * s_next)) if a > 0 else math.inf
        if order == 2 and previous_gap is not None:
            q = gap / (2 * previous_gap)
            c_h = -c_0 * q
            c_0 = c_0 * (1 + q)
        previous_gap = gap
        rows.append((c_x, c_0, c_h, e if wide else d))
    return rows


def predict_x0(prediction: str, level: Level) -> tuple[float, float]:
    """The factors a_x, a_o in x0 = a_x x + a_o o, for a network whose output o is `prediction` at `level`.

    prediction: one of schedule.PREDICTIONS. Raises PlanError for eps at alpha = 0.
    """
    a, s, _ = level
    if prediction == "eps":
        if a == 0:
            raise PlanError("an eps network does not determine x0 where alpha = 0: choose a smaller t0")
        return 1 / a, -s / a
    if prediction == "v":
        return a, -s
    if prediction == "x0":
        return 0.0, 1.0
    return 1 / (a + s), -s / (a + s)


def keep_coefficients(keep: str, now: Level, then: Level) -> tuple[float, float, int]:
    """The columns k_g, k_z, keep_noise of the row that goes from `now` to `then`, by keep rule.

    fresh: the level after the step and this row's noise. fixed: the level after the step and the repeat's begin noise,
    as diffusers. paper: the level before the step and this row's noise, as Algorithms 3 and 5 are printed. official:
    the level before the step and the begin noise, as the official code.
    """
    level = then if keep in ("fresh", "fixed") else now
    return level.alpha, level.sigma, int(keep in ("fixed", "official"))


def make_plan(
    schedule: Schedule,
    prediction: str,
    *,
    t0: float,
    steps: int,
    sampler: str,
    eta: float | None = None,
    keep: str = "fresh",
    repeats: int = 1,
    clip: float = 1.0,
    guidance: float = 1.0,
) -> Plan:
    """Make the plan of one edit. Raises PlanError, which names the argument, its value and the accepted ones.

    t0 in (0, 1]: how far the guide is noised. steps >= 1: network evaluations per repeat. sampler: a key of SAMPLERS.
    keep: one of KEEPS. eta in [0, 1]: ddim only. repeats >= 1: the paper's K. clip > 0: bound on predictions of x0; inf
    for none. guidance: any finite number.
    """
    preset = _preset(sampler, eta)
    _check(keep, repeats, steps, clip, guidance)
    ks = schedule.visit(t0, steps)
    levels = [*map(schedule.level, ks), CLEAN]
    coefficients = fill_rows(levels, preset.eta, preset.order, preset.wide, preset.renoise)
    once = np.zeros(steps, ROW)
    h_threshold = math.inf
    for n, row in enumerate(once):
        now, then = levels[n], levels[n + 1]
        row["time"] = now.time
        row["a_x"], row["a_o"] = predict_x0(prediction, now)
        row["clip"] = clip
        row["guidance"] = guidance
        row["c_x"], row["c_0"], row["c_h"], row["c_z"] = coefficients[n]
        row["k_g"], row["k_z"], row["keep_noise"] = keep_coefficients(keep, now, then)
        row["threshold"] = ks[n] / ks[0]
        row["h_threshold"] = h_threshold
        row["step"] = n
        h_threshold = ks[n] / ks[0]
    rows = np.tile(once, repeats)
    rows["repeat"] = np.repeat(np.arange(repeats, dtype=np.uint32), steps)
    return Plan(rows, levels[0].alpha, levels[0].sigma, keeps_exactly=keep in ("fresh", "fixed"))


def _preset(sampler: str, eta: float | None) -> Sampler:
    if sampler not in SAMPLERS:
        raise PlanError(f"sampler {sampler!r} is not one of {', '.join(SAMPLERS)}")
    if eta is None:
        return SAMPLERS[sampler]
    if sampler != "ddim":
        raise PlanError(f"eta {eta:g} belongs to sampler ddim; {sampler} has its own")
    if not 0 <= eta <= 1:
        raise PlanError(f"eta {eta:g} is not in [0, 1]")
    return Sampler(eta=eta)


def _check(keep: str, repeats: int, steps: int, clip: float, guidance: float) -> None:
    if keep not in KEEPS:
        raise PlanError(f"keep {keep!r} is not one of {', '.join(KEEPS)}")
    if repeats < 1:
        raise PlanError(f"repeats {repeats} is not at least 1")
    if steps * repeats > MAX_ROWS:
        raise PlanError(f"steps x repeats = {steps * repeats} network evaluations exceed the {MAX_ROWS} that fit")
    if not clip > 0:
        raise PlanError(f"clip {clip} is not above 0")
    if not math.isfinite(guidance):
        raise PlanError(f"guidance {guidance} is not finite")
