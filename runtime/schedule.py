"""The schedule: a table of noise levels. The runtime knows nothing else of VP, VE or flow."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sdedit.errors import PlanError

PREDICTIONS = ("eps", "v", "x0", "flow")
"""What a network may predict at a level: the noise z, v = alpha z - sigma x0, the clean x0, or u = z - x0."""


MAX_LEVELS = 1_000_000
"""Most levels of a schedule."""


class Level(NamedTuple):
    """x = alpha x0 + sigma z, and what the network is told of it."""

    alpha: float
    sigma: float
    time: float


CLEAN = Level(1.0, 0.0, 0.0)
"""Level 0, which is never stored; its time is never told to a network."""


@dataclass(frozen=True)
class Schedule:
    """float64 [T, 3]: alpha, sigma, time of levels 1 (cleanest) to T (noisiest); T is 1 to 1,000,000.

    Raises ValueError for a table that is none: alpha in [0, 1], sigma > 0, all finite, alpha / sigma strictly falling.
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
        if not (np.diff(alpha / sigma) < 0).all():
            raise ValueError("the schedule must go from clean to noisy: alpha / sigma must fall with every level")

    def __len__(self) -> int:
        return len(self.table)

    def level(self, k: int) -> Level:
        """Level k in 0..T."""
        return Level(*map(float, self.table[k - 1])) if k > 0 else CLEAN

    def visit(self, t0: float, steps: int) -> list[int]:
        """The levels k_N > ... > k_1 of an edit from t0 in (0, 1] in N = steps network evaluations, evenly spread.

        k_N = floor(t0 T + 1/2) and k_n = (2 n k_N + N) // (2 N). Raises PlanError where there are none.
        """
        if not 0 < t0 <= 1:
            raise PlanError(f"t0 {t0} is not in (0, 1]")
        first = int(t0 * len(self) + 0.5)
        if first < 1:
            raise PlanError(f"t0 {t0} is below the schedule's first level: at least {0.5 / len(self):g} is needed")
        if not 1 <= steps <= first:
            raise PlanError(f"steps {steps} is not in 1..{first}, the levels that the schedule has up to t0 {t0:g}")
        return [(2 * n * first + steps) // (2 * steps) for n in range(steps, 0, -1)]
