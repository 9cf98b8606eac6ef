"""One edit that every contender does alike: levels, guide, mask, noise. It travels to cold processes as JSON."""

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
    """A contender that cannot be had here; the message says why, on one line."""


@dataclass(frozen=True)
class Case:
    """bundle: folder. weights: folder with the same network for torch and diffusers (weights.py); "": there is none.

    t0, seed: as in Settings. batch: images at once. threads: of the network's engine, for all contenders.
    """

    bundle: str
    weights: str = ""
    t0: float = 0.5
    masked: bool = True
    batch: int = 1
    threads: int = 1
    seed: int = 0

    def dump(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Case":
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Problem:
    """A case with its bundle read: arrays in the shapes that loops take."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.bundle: Bundle = read_bundle(case.bundle)
        self.shape = self.bundle.state_shape

    def levels(self, steps: int) -> list[Level]:
        """Those that an edit visits, and the clean one."""
        schedule = self.bundle.schedule
        return [*map(schedule.level, schedule.visit(self.case.t0, steps)), CLEAN]

    @cached_property
    def guide(self) -> np.ndarray:
        """A horizon in two colours; float32 [C, H, W] in [-1, 1]."""
        channels, height, _ = self.shape
        guide = np.empty(self.shape, np.float32)
        guide[:, : height // 2] = np.linspace(-0.8, 0.0, channels, dtype=np.float32)[:, None, None]
        guide[:, height // 2 :] = np.linspace(0.2, -0.4, channels, dtype=np.float32)[:, None, None]
        return guide

    @cached_property
    def mask(self) -> np.ndarray:
        """1 = edit: the middle, or all; float32 [H, W]."""
        _, height, width = self.shape
        mask = np.full((height, width), float(not self.case.masked), np.float32)
        mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
        return mask

    def noise(self, kind: int, step: int) -> np.ndarray:
        """The project's own, float32 [B, C, H, W]."""
        count = int(np.prod(self.shape))
        images = [normal_numpy(self.case.seed, i, 0, step, kind, count) for i in range(self.case.batch)]
        return np.stack(images).reshape(-1, *self.shape)

    def plan(self, steps: int) -> Plan:
        """The official code's edit as rows: ancestral, no clamp, its keep rule."""
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
    """A way to do the case's edit. network: seconds spent in the network's evaluations so far."""

    version: str
    problem: Problem
    network: "Stopwatch"

    def predict(self, x: np.ndarray, time: float) -> np.ndarray:
        """The network alone: float32 [1, C, H, W] -> float32 [1, C, H, W]."""

    def begin(self, steps: int, exact: bool = False) -> None:
        """Start an edit of so many steps; exact: with the project's noise, so that results can be compared."""

    def step(self) -> None:
        """One step of the edit: an evaluation of the network and the update; its result is complete on return."""

    def done(self) -> bool:
        """Whether all steps of the edit are taken."""

    def result(self) -> np.ndarray:
        """Of an edit that is done: float32 [B, C, H, W]."""


class Stopwatch:
    """Adds up what the functions that it is put around take."""

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
