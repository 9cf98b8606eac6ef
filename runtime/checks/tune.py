"""Measure the ways to run a bundle's network on this machine, each after its parity check."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle
from ..engines import ENGINES, Engine, Evaluate, installed_engines, load_engine
from ..engines.names import first_engine
from ..engines.remembered import Measured, remember
from ..machine import available_processors, load_average, why_busy
from .parity import TOLERANCES, measure_error
from .turns import take_turns

SECONDS = 3.0
"""Time for each candidate, in turns with the others."""


@dataclass(frozen=True)
class Refused:
    """A candidate that is not measured, and the reason."""

    engine: str
    precision: str
    threads: int
    why: str


@dataclass(frozen=True)
class Report:
    """measured: the fastest first. load: load average before the run, None if the system does not tell it.

    file: remembers the times, and "auto" reads it; None if nothing is remembered, and then why.
    """

    measured: list[Measured]
    refused: list[Refused]
    load: float | None
    file: str | None
    why: str | None


def tune(bundle: Bundle, *, threads: int | None = None) -> Report:
    """Check and time every candidate, and remember the times unless the run was restricted or disturbed.

    threads: measure only that number; None: half of the processors, and all. Raises EngineError for a number that this
    machine does not have, and if no candidate passes its parity check.
    """
    processors = available_processors()
    if threads is not None and not 1 <= threads <= processors:
        raise EngineError(f"threads {threads} is not in 1..{processors}, the processors that this process may use")
    first_engine("cpu", "float32")  # raises if no engine is installed
    load = load_average()
    passed, refused = [], []
    for engine, precision, count in candidates(threads):
        try:
            passed.append(check(bundle, engine, precision, count))
        except EngineError as error:
            refused.append(Refused(engine, precision, count, str(error)))
    if not passed:
        raise EngineError(f"no engine runs this bundle: {refused[0].why}")
    measured = measure(bundle, passed)
    why = reason_to_forget(threads, load)
    file = remember(bundle, measured) if why is None else None
    if why is None and file is None:
        why = "the cache cannot be written"
    return Report(measured, refused, load, None if file is None else str(file), why)


def reason_to_forget(threads: int | None, load: float | None) -> str | None:
    """Why a run must not decide what "auto" means; None if it may. load: the load average before the run."""
    return why_busy(load) if threads is None else f"only --threads {threads} was measured"


def candidates(threads: int | None) -> list[tuple[str, str, int]]:
    """Engine, precision and threads of everything that could make sense on this machine's CPU."""
    processors = available_processors()
    counts = [threads] if threads else sorted({max(1, processors // 2), processors})
    kinds = [(engine, precision) for engine in installed_engines() for precision in ENGINES["cpu"][engine]]
    return [(*kind, count) for kind in kinds for count in counts]


def check(bundle: Bundle, engine: str, precision: str, threads: int) -> tuple[Engine, float]:
    """The loaded engine and its error; raises EngineError if the error is above the precision's tolerance."""
    loaded = load_engine(bundle, engine, precision, threads)
    error = measure_error(bundle, loaded)
    if not error <= TOLERANCES[precision]:
        raise EngineError(f"its error {error:.1e} is above {TOLERANCES[precision]:.0e}")
    return loaded, error


def measure(bundle: Bundle, engines: Sequence[tuple[Engine, float]]) -> list[Measured]:
    """Time the engines in turns; the fastest first."""
    times = time_evaluations([bind_noise(bundle, engine) for engine, _ in engines], SECONDS)
    return sorted((summary(*one, ms) for one, ms in zip(engines, times, strict=True)), key=lambda m: m.median_ms)


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


def time_evaluations(evaluations: Sequence[Evaluate], seconds: float) -> list[list[float]]:
    """Milliseconds of each, taken in turns. seconds: for each, about."""
    times: list[list[float]] = [[] for _ in evaluations]
    runs = [lambda evaluate=evaluate: milliseconds(evaluate) for evaluate in evaluations]
    take_turns(runs, times, float, seconds * len(evaluations))
    return times


def milliseconds(evaluate: Evaluate) -> float:
    """Time of one evaluation."""
    start = time.perf_counter()
    evaluate()
    return 1e3 * (time.perf_counter() - start)


def summary(engine: Engine, error: float, times: Sequence[float]) -> Measured:
    """Median, 5th and 95th percentile of an engine's times."""
    low, high = (float(value) for value in np.percentile(times, [5, 95]))
    return Measured(engine.name, engine.precision, engine.threads, error, statistics.median(times), low, high)
