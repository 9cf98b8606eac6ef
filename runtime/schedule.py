"""The schedule: a table of noise levels. The rest of the runtime does not know whether it is VP, VE or flow."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sdedit.errors import PlanError

PREDICTIONS = ("eps", "v", "x0", "flow")
"""Names of a network's output: the noise z, v = alpha z - sigma x0, the clean x0, or the flow u = z - x0."""


MAX_LEVELS = 1_000_000
"""Most levels of a schedule."""

SMALLEST, LARGEST = 1e-30, 1e30
"""Bounds of a schedule's numbers: with them no coefficient of a plan overflows, in float64 or as float32."""

CLOSEST = 1e-12
"""Least relative distance of two levels' alpha / sigma: a plan divides by its logarithm."""


class Level(NamedTuple):
    """A noise level: x = alpha x0 + sigma z. time: the network's input at this level."""

    alpha: float
    sigma: float
    time: float


CLEAN = Level(1.0, 0.0, 0.0)
"""Level 0. It is never stored, and no network is evaluated there."""


@dataclass(frozen=True)
class Schedule:
    """A schedule of T levels, T in 1..1,000,000.

    table: float64 [T, 3], alpha, sigma and time of levels 1 (cleanest) to T (noisiest). All values are finite, alpha is
    in [0, 1], sigma > 0, and alpha / sigma falls strictly; other tables raise ValueError. So do tables with which a
    plan's numbers would overflow: values beyond LARGEST or SMALLEST, and levels closer than CLOSEST.
    """

    table: np.ndarray

    def __post_init__(self) -> None:
        table = self.table
        if table.dtype != np.float64 or table.ndim != 2 or table.shape[1] != 3 or not 1 <= len(table) <= MAX_LEVELS:
            raise ValueError(
                f"a schedule is float64 [T, 3] with T in 1..1000000, got {table.dtype} {list(table.shape)}"
            )
        if not np.isfinite(table).all():
            raise ValueError("the schedule holds a value that is not finite")
        alpha, sigma = table[:, 0], table[:, 1]
        if alpha.min() < 0 or alpha.max() > 1 or sigma.min() <= 0:
            raise ValueError("the schedule's alpha must lie in [0, 1] and its sigma above 0")
        if sigma.min() < SMALLEST or sigma.max() > LARGEST or (alpha[alpha > 0] < SMALLEST).any():
            raise ValueError(f"the schedule's sigma, and alpha above 0, must lie in {SMALLEST}..{LARGEST}")
        ratio = alpha / sigma
        if not (np.diff(ratio) < 0).all():
            raise ValueError("the schedule must go from clean to noisy: alpha / sigma must fall with every level")
        if ratio.max() > LARGEST or (ratio[ratio > 0] < SMALLEST).any():
            raise ValueError(f"the schedule's alpha / sigma, if above 0, must lie in {SMALLEST}..{LARGEST}")
        if not (ratio[1:] <= ratio[:-1] * (1 - CLOSEST)).all():
            raise ValueError(f"the schedule's alpha / sigma must fall by more than {CLOSEST} of it with every level")

    def __len__(self) -> int:
        return len(self.table)

    def level(self, k: int) -> Level:
        """Alpha, sigma and time of level k in 0..T."""
        return Level(*map(float, self.table[k - 1])) if k > 0 else CLEAN

    def visit(self, t0: float, steps: int) -> list[int]:
        """The levels k_N > ... > k_1 that an edit from t0 in (0, 1] visits in N = `steps` evaluations, evenly spread.

        k_N = floor(t0 T + 1/2) and k_n = (2 n k_N + N) // (2 N). Raises PlanError if t0 is below the first level, or
        if there are fewer than N levels.
        """
        if not 0 < t0 <= 1:
            raise PlanError(f"t0 {t0} is not in (0, 1]")
        first = int(t0 * len(self) + 0.5)
        if first < 1:
            raise PlanError(f"t0 {t0} is below the schedule's first level: at least {0.5 / len(self):g} is needed")
        if not 1 <= steps <= first:
            raise PlanError(f"steps {steps} is not in 1..{first}, the levels that the schedule has up to t0 {t0:g}")
        return [(2 * n * first + steps) // (2 * steps) for n in range(steps, 0, -1)]
