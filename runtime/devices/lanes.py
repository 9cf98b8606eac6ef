"""Lanes: several passes of the network are evaluated at the same time, each on one thread.

One evaluation does not keep all threads of an engine busy. As many evaluations as there are threads, each on one of
them, make more images a second. The price is a second copy of the weights in memory.
"""

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from queue import Empty, SimpleQueue

from ..bundle import Bundle
from ..engines import Engine, Evaluate, load_for_lanes

SLICE = 0.2
"""Seconds. Waits are made of slices of this length: on Windows, Ctrl-C reaches a thread only between two waits."""


class Lanes:
    """Makes `count` evaluations at the same time: one in the calling thread, the others in threads of its own.

    The threads start with the first `run` and end with `close`. Devices of all shapes share them and the engine. One
    thread at a time may call `run` and `close`. load: see load_for_lanes.
    """

    def __init__(self, load: Callable[[], Engine], count: int) -> None:
        self.count = count
        self._load = load
        self._rounds: SimpleQueue[Round | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    @cached_property
    def engine(self) -> Engine:
        """The engine whose evaluations may be given to `run`, loaded at first use. Raises what loading raises."""
        return self._load()

    def run(self, evaluations: Sequence[Evaluate]) -> None:
        """Make all of them, and return when none is under way any more.

        If one fails, those that no lane has begun are left out, and its error is raised. Raises RuntimeError if no
        thread can be started.
        """
        self._start()
        current = Round(evaluations)
        for _ in self._threads:
            self._rounds.put(current)
        try:
            current.work()
        finally:  # the buffers are free for the caller, whatever came
            current.wait(len(self._threads))
        if current.failures:
            raise current.failures[0]

    def close(self) -> None:
        """End the threads; the next `run` starts others."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._rounds.put(None)
        for thread in threads:
            thread.join(SLICE)  # it has nothing left to do

    def _start(self) -> None:
        while len(self._threads) < self.count - 1:
            thread = threading.Thread(target=work_until_closed, args=(self._rounds,), name="sdedit-lane", daemon=True)
            thread.start()
            self._threads.append(thread)


class Round:
    """Evaluations that are shared out to lanes. failures: what they raised, the first one first."""

    def __init__(self, evaluations: Sequence[Evaluate]) -> None:
        self.failures: list[BaseException] = []
        self._left: SimpleQueue[Evaluate] = SimpleQueue()
        for evaluate in evaluations:
            self._left.put(evaluate)
        self._ended: list[None] = []
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def work(self) -> None:
        """Be a lane: evaluate until nothing is left, or an evaluation has failed in any lane."""
        while not self.failures:
            try:
                evaluate = self._left.get_nowait()
            except Empty:
                return
            try:
                evaluate()
            except BaseException as error:  # `run` raises it when the other lanes have ended
                self.failures.append(error)

    def end(self) -> None:
        """Tell that a lane has ended."""
        self._ended.append(None)
        self._wakes.put(None)

    def wait(self, lanes: int) -> None:
        """Wait until so many lanes have ended, even if a Ctrl-C comes, which is one of the failures then."""
        while len(self._ended) < lanes:
            try:
                self._wakes.get(timeout=SLICE)
            except Empty:
                continue
            except BaseException as error:
                self.failures.append(error)


def work_until_closed(rounds: "SimpleQueue[Round | None]") -> None:
    """Be a lane in every round until None comes. Between rounds it holds none, so that buffers can be freed."""
    while (current := rounds.get()) is not None:
        current.work()
        current.end()
        del current


def make_lanes(bundle: Bundle, engine: Engine, slots: int) -> Lanes | None:
    """Lanes for a device of so many slots, as many as the engine has threads; None if they would never be used.

    Both passes of a guided slot count, but not of latent networks, whose weights are too large to be held twice for it.
    """
    passes = 2 * slots if bundle.guided and bundle.manifest.latent is None else slots
    if not 1 < engine.threads <= passes:
        return None
    return Lanes(lambda: load_for_lanes(bundle, engine), engine.threads)
