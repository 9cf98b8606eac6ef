"""Timing several things side by side: they take turns, so that a busy machine is equally busy for all of them."""

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

TURN = 3
"""Samples of a turn, after one that is not kept: it wakes threads and fills caches."""

LONG = 300.0
"""Milliseconds of a run from which on a turn is that one run: waking threads takes nothing beside it."""

REST = 0.02
"""Seconds before a turn: idle threads of the run before it spin for a while, and would slow the next one down."""

MIN_ROUNDS = 3

Sample = TypeVar("Sample")


def take_turns(
    runs: Sequence[Callable[[], Sample]],
    kept: Sequence[list[Sample]],
    milliseconds: Callable[[Sample], float],
    seconds: float,
) -> None:
    """Run each in turn, round after round, for about that time in all, and append the samples to each one's list.

    milliseconds: the duration of a sample. An interrupt leaves the samples of all turns that ended.
    """
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() < end:
        for run, samples in zip(runs, kept, strict=True):
            time.sleep(REST)
            first = run()
            samples += [first] if milliseconds(first) > LONG else [run() for _ in range(TURN)]
        rounds += 1
