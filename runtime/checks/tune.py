"""Measure the ways to run a bundle's network on this machine, each after its parity check."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle
from ..engines import PRECISIONS, Engine, Evaluate, installed_engines, load_engine
from ..engines.opening import rule
from ..engines.remembered import Measured, remember
from ..machine import available_processors
from .parity import TOLERANCES, measure_error

SECONDS = 3.0
"""Time given to each candidate, in rounds over all of them."""

ROUNDS = (2, 60)
"""Fewest and most turns of a candidate."""

TURN = 3
"""Evaluations of a candidate in a turn."""

REST = 0.02
"""Seconds before a turn: idle threads of the engine before go on spinning for a while, and would be paid for here."""


@dataclass(frozen=True)
class Refused:
    """A candidate that is not measured, and why."""

    engine: str
    precision: str
    threads: int
    why: str


@dataclass(frozen=True)
class Report:
    """measured: the fastest first. file: of the cache, from which "auto" takes it from now on; None: not written."""

    measured: list[Measured]
    refused: list[Refused]
    file: str | None


def tune(bundle: Bundle, *, threads: int | None = None) -> Report:
    """Check, time and remember. threads: only that many; None: half of the processors there are, and all.

    Raises EngineError where no candidate passes its parity check.
    """
    if threads is not None and threads < 1:
        raise EngineError(f"threads {threads} is not at least 1")
    rule("float32")  # raises where no engine is installed
    passed, refused = [], []
    for engine, precision, count in candidates(threads):
        try:
            passed.append(check(bundle, engine, precision, count))
        except EngineError as error:
            refused.append(Refused(engine, precision, count, str(error)))
    if not passed:
        raise EngineError(f"no engine runs this bundle: {refused[0].why}")
    times = interleave([bind_noise(bundle, engine) for engine, _ in passed])
    measured = sorted((summary(*one, ms) for one, ms in zip(passed, times, strict=True)), key=lambda m: m.median_ms)
    file = remember(bundle, measured)
    return Report(measured, refused, None if file is None else str(file))


def candidates(threads: int | None) -> list[tuple[str, str, int]]:
    """Engine, precision and threads of all that could make sense here."""
    there_are = available_processors()
    counts = [threads] if threads else sorted({max(1, there_are // 2), there_are})
    kinds = [(engine, precision) for engine in installed_engines() for precision in PRECISIONS]
    return [(*kind, count) for kind in kinds for count in counts if kind[0] == "openvino" or kind[1] == "float32"]


def check(bundle: Bundle, engine: str, precision: str, threads: int) -> tuple[Engine, float]:
    """The loaded engine and its error; raises EngineError where it is above the precision's tolerance."""
    loaded = load_engine(bundle, engine, precision, threads)
    error = measure_error(bundle, loaded)
    if not error <= TOLERANCES[precision]:
        raise EngineError(f"its error {error:.1e} is above {TOLERANCES[precision]:.0e}")
    return loaded, error


def bind_noise(bundle: Bundle, engine: Engine) -> Evaluate:
    """The engine on buffers of its own, which the returned function must keep alive."""
    inputs = {name: np.zeros((1, *spec.shape), spec.dtype) for name, spec in bundle.inputs.items()}
    inputs["x"][:] = np.random.default_rng(0).standard_normal(inputs["x"].shape)
    inputs["time"][:] = bundle.schedule.level(1).time
    out = np.empty((1, *bundle.state_shape), np.float32)
    evaluate = engine.bind(inputs, out)

    def run(_alive: object = (inputs, out)) -> None:
        evaluate()

    return run


def interleave(evaluations: Sequence[Evaluate], seconds: float = SECONDS) -> list[list[float]]:
    """Milliseconds of each, in turns, so that a busy machine is equally busy for all. A turn's first one is not kept:
    it wakes threads and fills caches.
    """
    cost = sum(milliseconds(evaluate) for evaluate in evaluations) / 1e3
    rounds = int(np.clip(seconds * len(evaluations) / (cost * (TURN + 1)), *ROUNDS))
    times: list[list[float]] = [[] for _ in evaluations]
    for _ in range(rounds):
        for evaluate, kept in zip(evaluations, times, strict=True):
            time.sleep(REST)
            evaluate()
            kept += [milliseconds(evaluate) for _ in range(TURN)]
    return times


def milliseconds(evaluate: Evaluate) -> float:
    start = time.perf_counter()
    evaluate()
    return 1e3 * (time.perf_counter() - start)


def summary(engine: Engine, error: float, times: Sequence[float]) -> Measured:
    low, high = (float(value) for value in np.percentile(times, [5, 95]))
    return Measured(engine.name, engine.precision, engine.threads, error, statistics.median(times), low, high)
