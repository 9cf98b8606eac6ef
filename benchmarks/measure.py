"""Check parity, then time. Contenders take turns, step by step, so that a busy machine is equally busy for all."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from sdedit.runtime.checks.parity import TOLERANCES, judged, parity_input, relative_error
from sdedit.runtime.checks.turns import take_turns

from .case import Contender

PSNR_FLOORS = {"float32": 60.0, "float32, bytes cut": 45.0, "bfloat16": 20.0, "int8": 20.0}
"""Least PSNR in dB of an edit against float32 with the same noise, by precision.

float32: an error of a thousandth of the range, a quarter of a byte's step, which float32's rounding never reaches.
Bytes cut: values that are cut to bytes, not rounded, are wrong by 0.58 of a step, which is 53 dB of the full range.
The others: below this the edit makes another image.
"""

IDENTICAL = 200.0
"""PSNR in dB of equal images: JSON has no infinity."""


Step = tuple[float, float]
"""Milliseconds of a step, and of the network within it."""


class RefusedError(Exception):
    """A contender's results differ from the reference, so it is not timed."""


@dataclass
class Samples:
    """Milliseconds of each timed step, and of the network within it."""

    step: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)


def timed_by(wait: Callable[[], object], function: Callable[[], object], rounds: int) -> float:
    """Milliseconds a call, from the first enqueued to the last done, after three calls that do not count.

    wait: returns when all that was enqueued is done.
    """
    for _ in range(3):
        function()
    wait()
    begun = time.perf_counter()
    for _ in range(rounds):
        function()
    wait()
    return round(1e3 * (time.perf_counter() - begun) / rounds, 4)


def check_network(contender: Contender, precision: str) -> float:
    """The largest relative error at the first, middle and last level that is judged.

    Raises RefusedError if it is above the precision's tolerance.
    """
    bundle = contender.problem.bundle
    levels, expected = bundle.reference()
    indices = judged(bundle, precision)
    chosen = sorted({indices[0], indices[len(indices) // 2], indices[-1]})
    table = bundle.schedule.table
    outputs = [
        contender.predict(parity_input(table, levels[i], i, bundle.state_shape), bundle.schedule.level(levels[i]).time)
        for i in chosen
    ]
    error = relative_error(np.concatenate(outputs), expected[chosen])
    limit = TOLERANCES[precision]
    if not error <= limit:
        raise RefusedError(f"the network's error {error:.1e} is above {limit:.0e}")
    return error


def run_edit(contender: Contender, steps: int, exact: bool = True) -> np.ndarray:
    """Make one edit and return its images. exact: with the project's noise."""
    contender.begin(steps, exact)
    while not contender.done():
        contender.step()
    return contender.result()


def check_edit(result: np.ndarray, reference: np.ndarray, precision: str) -> float:
    """PSNR in dB of an edit; the peak is the reference's range. Raises RefusedError if it is below the floor."""
    peak = float(reference.max() - reference.min())
    error = float(np.sqrt(np.mean(np.square(result.astype(np.float64) - reference))))
    psnr = 20 * float(np.log10(peak / error)) if error else IDENTICAL
    if not psnr >= PSNR_FLOORS[precision]:
        raise RefusedError(f"an edit's PSNR {psnr:.1f} dB against float32 is below {PSNR_FLOORS[precision]:.0f} dB")
    return min(psnr, IDENTICAL)


def interleave(contenders: Mapping[str, Contender], steps: int, seconds: float) -> tuple[dict[str, Samples], bool]:
    """Time the contenders in turns, in edits of `steps` steps, for about `seconds`.

    Returns samples by name, and False if Ctrl-C ended it early; the samples until then are kept.
    """
    kept: list[list[Step]] = [[] for _ in contenders]
    complete = True
    try:
        for contender in contenders.values():
            contender.begin(steps)
        runs = [partial(time_step, contender, steps) for contender in contenders.values()]
        take_turns(runs, kept, lambda step: step[0], seconds)
    except KeyboardInterrupt:
        complete = False
    samples = {
        name: Samples([step for step, _ in taken], [network for _, network in taken])
        for name, taken in zip(contenders, kept, strict=True)
    }
    return samples, complete


def time_step(contender: Contender, steps: int) -> Step:
    """Milliseconds of a step and of the network within it. A finished edit starts again first, untimed."""
    if contender.done():
        contender.begin(steps)
    before = contender.network.seconds
    start = time.perf_counter()
    contender.step()
    return 1e3 * (time.perf_counter() - start), 1e3 * (contender.network.seconds - before)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 5th and 95th percentile, and the number of values."""
    p5, median, p95 = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return {"median": median, "p5": p5, "p95": p95, "count": len(values)}
