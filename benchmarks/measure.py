"""Parity first, then time: contenders take turns, step by step, so that a busy machine is equally busy for all."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sdedit.runtime.checks.parity import TOLERANCES, judged, parity_input, relative_error

from .case import Contender

TURN = 3
"""Steps of a contender in a turn, after one that is not kept: it wakes threads and fills caches."""

LONG = 0.3
"""Seconds of a step from which on a turn is that step alone: waking up is nothing beside it."""

REST = 0.02
"""Seconds before a turn: idle threads of the contender before spin on for a while, and would be paid for here."""

MIN_ROUNDS = 3

PSNR_FLOORS = {"float32": 60.0, "bfloat16": 20.0, "int8": 20.0}
"""Least PSNR in dB of an edit against float32 with the same noise. float32: an error of a thousandth of the range, a
quarter of a byte's step, which no rounding of float32 reaches. The others: below, the image is another one.
"""

IDENTICAL = 200.0
"""dB where there is no difference: JSON has no infinity."""


class RefusedError(Exception):
    """A contender whose results differ from the reference: it is not timed."""


@dataclass
class Samples:
    """Milliseconds of each kept step, and of the network within it."""

    step: list[float] = field(default_factory=list)
    network: list[float] = field(default_factory=list)


def check_network(contender: Contender, precision: str) -> float:
    """The largest relative error at the first, middle and last level that is judged; RefusedError above tolerance."""
    bundle = contender.problem.bundle
    levels, expected = bundle.reference()
    told = judged(bundle, precision)
    chosen = sorted({told[0], told[len(told) // 2], told[-1]})
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
    """The result of one edit; exact: with the project's noise."""
    contender.begin(steps, exact)
    while not contender.done():
        contender.step()
    return contender.result()


def check_edit(result: np.ndarray, reference: np.ndarray, precision: str) -> float:
    """PSNR in dB against the reference's edit, whose range is the peak; raises RefusedError below the floor."""
    peak = float(reference.max() - reference.min())
    error = float(np.sqrt(np.mean(np.square(result.astype(np.float64) - reference))))
    psnr = 20 * float(np.log10(peak / error)) if error else IDENTICAL
    if not psnr >= PSNR_FLOORS[precision]:
        raise RefusedError(f"an edit's PSNR {psnr:.1f} dB against float32 is below {PSNR_FLOORS[precision]:.0f} dB")
    return min(psnr, IDENTICAL)


def interleave(contenders: Mapping[str, Contender], steps: int, seconds: float) -> tuple[dict[str, Samples], bool]:
    """Samples of edits of so many steps by name, and whether all turns were taken: Ctrl-C keeps what was measured."""
    samples = {name: Samples() for name in contenders}
    end = time.perf_counter() + seconds
    rounds = 0
    try:
        for contender in contenders.values():
            contender.begin(steps)
        while rounds < MIN_ROUNDS or time.perf_counter() < end:
            for name, contender in contenders.items():
                take_turn(contender, steps, samples[name])
            rounds += 1
    except KeyboardInterrupt:
        return samples, False
    return samples, True


def take_turn(contender: Contender, steps: int, kept: Samples) -> None:
    time.sleep(REST)
    step, network = time_step(contender, steps)
    if step > 1e3 * LONG:
        kept.step.append(step)
        kept.network.append(network)
        return
    for _ in range(TURN):
        step, network = time_step(contender, steps)
        kept.step.append(step)
        kept.network.append(network)


def time_step(contender: Contender, steps: int) -> tuple[float, float]:
    """Milliseconds of a step and of the network within it; the edit starts again, untimed, where it has ended."""
    if contender.done():
        contender.begin(steps)
    before = contender.network.seconds
    start = time.perf_counter()
    contender.step()
    return 1e3 * (time.perf_counter() - start), 1e3 * (contender.network.seconds - before)


def spread(values: Sequence[float]) -> dict[str, float]:
    """median, p5, p95 and how many."""
    p5, median, p95 = (float(value) for value in np.percentile(values, [5, 50, 95]))
    return {"median": median, "p5": p5, "p95": p95, "count": len(values)}
