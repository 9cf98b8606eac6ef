"""Stand-ins for contenders and runs of sdedit-bench."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sdedit.benchmarks import measure, report
from sdedit.benchmarks.case import Case, Problem, Stopwatch
from sdedit.benchmarks.contenders import OFFICIAL, Spec
from sdedit.benchmarks.scenarios import Scenario
from sdedit.benchmarks.suite import Suite

Log = list[str]


class Stub:
    """A correct contender for the tiny bundle, whose network halves its input. It logs its steps and calls `late`."""

    version = "stub 1"

    def __init__(self, case: Case, name: str, log: Log, factor: float = 0.5, late: Callable[[], None] = int) -> None:
        self.problem = Problem(case)
        self.name, self.log, self.factor, self.late = name, log, factor, late
        self.network = Stopwatch(lambda: 0.0)

    def predict(self, x: np.ndarray, time: float) -> np.ndarray:
        return np.float32(self.factor) * x

    def begin(self, steps: int, exact: bool = False) -> None:
        self.steps = steps

    def step(self) -> None:
        self.steps -= 1
        self.late()
        self.log.append(self.name)

    def done(self) -> bool:
        return self.steps == 0

    def result(self) -> np.ndarray:
        return self.problem.noise(0, 0)


def scenario(bundle: Path, name: str = "tiny-masked") -> Scenario:
    return Scenario(name, name, lambda folder: (bundle, None), parity_steps=2)


def suite(**specs: Spec) -> Suite:
    return Suite(1, seconds=0.0, say=lambda line: None, contenders=specs)


def stub(log: Log, name: str, **options: object) -> Spec:
    return Spec("float32", lambda case: Stub(case, name, log, **options))  # type: ignore[arg-type]


def row(reports: list[dict], name: str) -> dict:
    (found,) = [r for r in reports[0]["rows"] if r["name"] == name]
    return found


def a_step() -> measure.Samples:
    return measure.Samples([2.0], [1.0])


def a_run(bundle: Path) -> report.Run:
    log: Log = []
    scenarios = suite(**{OFFICIAL: stub(log, "a"), "fast": stub(log, "b")}).run([scenario(bundle)])
    machine = {"processor": "p", "features": [], "threads": 1, "python": "3", "versions": {}, "commit": "abc"}
    for number, each in enumerate(scenarios[0]["rows"]):
        ms = {"median": 2.0 - number, "p5": 1.9 - number, "p95": 2.1 - number, "count": 9}
        each.update(step_ms=ms, network_ms=ms, other_percent=0.0, images_per_second=1.0 + number)
    run = {"revision": report.REVISION, "command": "sdedit-bench", "machine": machine, "complete": True}
    return {**run, "load_before": 0.1, "load_after": 0.2, "peaks": {"float32": {"numpy": 10.0}}, "scenarios": scenarios}
