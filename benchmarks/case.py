"""The edit that every contender makes: levels, guide, mask and noise. A cold process receives it as JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

import numpy as np

from sdedit.kernels.noise import normal_numpy
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.plan import Plan, make_plan
from sdedit.runtime.schedule import CLEAN, Level

P = ParamSpec("P")
R = TypeVar("R")


class MissingError(Exception):
    """A contender cannot run on this machine; the message says why, on one line."""


@dataclass(frozen=True)
class Case:
    """The arguments of the edit.

    bundle: its folder. weights: folder with the same network for torch and diffusers (weights.py), "" if there is none.
    masked: edit the middle alone. batch: images at once. threads: threads of each contender's engine.
    t0, seed: as in Settings.
    """

    bundle: str
    weights: str = ""
    t0: float = 0.5
    masked: bool = True
    batch: int = 1
    threads: int = 1
    seed: int = 0

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), allow_nan=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Case":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Problem:
    """A case and its bundle: the arrays that a contender's loop takes."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.bundle: Bundle = read_bundle(case.bundle)
        self.shape = self.bundle.state_shape

    def levels(self, steps: int) -> list[Level]:
        """Levels that the edit visits, from noisy to clean, the clean level included."""
        schedule = self.bundle.schedule
        return [*map(schedule.level, schedule.visit(self.case.t0, steps)), CLEAN]

    @cached_property
    def guide(self) -> np.ndarray:
        """Two flat areas, above and below a horizon; float32 [C, H, W] in [-1, 1]."""
        channels, height, _ = self.shape
        guide = np.empty(self.shape, np.float32)
        guide[:, : height // 2] = np.linspace(-0.8, 0.0, channels, dtype=np.float32)[:, None, None]
        guide[:, height // 2 :] = np.linspace(0.2, -0.4, channels, dtype=np.float32)[:, None, None]
        return guide

    @cached_property
    def mask(self) -> np.ndarray:
        """1 where the edit may change pixels: the middle, or everywhere; float32 [H, W]."""
        _, height, width = self.shape
        mask = np.full((height, width), float(not self.case.masked), np.float32)
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        return mask

    def noise(self, kind: int, step: int) -> np.ndarray:
        """The project's noise of all images, float32 [B, C, H, W]. kind: KIND_BEGIN or KIND_STEP."""
        count = int(np.prod(self.shape))
        images = [normal_numpy(self.case.seed, i, 0, step, kind, count) for i in range(self.case.batch)]
        return np.stack(images).reshape(-1, *self.shape)

    def plan(self, steps: int) -> Plan:
        """The edit of the official code as a plan: ancestral, no clamp, keep rule `official`."""
        return make_plan(
            self.bundle.schedule,
            self.bundle.prediction,
            t0=self.case.t0,
            steps=steps,
            sampler="ancestral",
            keep="official",
            clip=float("inf"),
        )


class Contender(Protocol):
    """A way to make the case's edit. network: counts the seconds in the network's evaluations."""

    version: str
    problem: Problem
    network: "Stopwatch"

    def predict(self, x: np.ndarray, time: float) -> np.ndarray:
        """One evaluation of the network: float32 [1, C, H, W] -> float32 [1, C, H, W]."""

    def begin(self, steps: int, exact: bool = False) -> None:
        """Start an edit of `steps` steps. exact: take the project's noise, so that results can be compared."""

    def step(self) -> None:
        """Do one step of the edit: evaluate the network and update. The result is complete on return."""

    def done(self) -> bool:
        """Whether all steps of the edit are done."""

    def result(self) -> np.ndarray:
        """The images of a finished edit, float32 [B, C, H, W]."""


class Stopwatch:
    """Adds up the seconds that the wrapped functions take."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds = 0.0
        self._clock = clock

    def around(self, function: Callable[P, R]) -> Callable[P, R]:
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            start = self._clock()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += self._clock() - start

        return timed
