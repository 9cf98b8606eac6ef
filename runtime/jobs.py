"""Jobs: edits in flight. One worker thread owns the loop; all other threads only leave requests and wait."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from sdedit.errors import CancelledError, EngineError

from .loop import Conditions, Loop, Task
from .plan import Plan


@dataclass(frozen=True)
class Progress:
    """Where a job stands. step of steps: network evaluations, all images together. x0: the image's newest prediction.

    x0 is float32 [C, H, W], or None unless previews are wanted.
    """

    step: int
    steps: int
    image: int
    x0: np.ndarray | None


@dataclass(eq=False)
class Ticket:
    """One job as the worker sees it; `changed` guards what changes.

    numbers: of the images to make; with the seed they key the noise. conditions, null_conditions: as of loop.Task.
    states: results by number, float32 [C, H, W].
    """

    plan: Plan
    guide: np.ndarray
    mask: np.ndarray
    seed: int
    numbers: range
    conditions: Conditions = field(default_factory=dict)
    null_conditions: Conditions = field(default_factory=dict)
    admitted: int = 0
    states: dict[int, np.ndarray] = field(default_factory=dict)
    progress: Progress | None = None
    watchers: int = 0
    cancelled: bool = False
    error: BaseException | None = None
    started_at: float = 0.0
    finished_at: float | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def done(self) -> bool:
        return self.finished_at is not None

    @property
    def steps(self) -> int:
        """Network evaluations of the whole job."""
        return len(self.plan.rows) * len(self.numbers)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the job ended within `timeout` seconds."""
        with self.changed:
            return self.changed.wait_for(lambda: self.done, timeout)

    def watch(self, previews: bool) -> Iterator[Progress]:
        """The newest progress each time one asks, until the job ends; what nobody asked for in time is skipped."""
        seen = None
        with self.changed:
            self.watchers += previews
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.done or self.progress is not seen)  # noqa: B023 - called at once
                    if self.progress is seen:
                        return
                    seen = self.progress
                if seen is not None and (seen.x0 is not None or not previews):
                    yield seen
        finally:
            with self.changed:
                self.watchers -= previews


class Worker:
    """Runs tickets on a loop, in a thread that starts with the first one and ends with `close`.

    Free slots go to the waiting jobs in turn, one image each, so that a job of many images holds up no other.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[Task, Ticket] = {}
        self._steps: dict[Ticket, int] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket; raises EngineError after `close`."""
        with self._wake:
            if self._closed:
                raise EngineError("the editor is closed: open another")
            if self._thread is not None and not self._thread.is_alive():
                raise EngineError("the editor was used before this process was forked: open one after the fork")
            self._waiting.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sdedit", daemon=True)
                self._thread.start()
            self._wake.notify()

    def cancel(self, ticket: Ticket) -> bool:
        """Ask for its end at the next step boundary; False where it had ended."""
        with self._wake, ticket.changed:
            if ticket.done:
                return False
            ticket.cancelled = True
            self._wake.notify()
            return True

    def close(self) -> None:
        """Cancel what is in flight and end the thread; may be called twice, and from anywhere but a job's callback."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        if self._thread is None:
            self._loop.close()

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._drop_cancelled()
                self._admit()
                if self._loop.busy:
                    self._step()
            except Exception as error:  # an engine's failure concerns whatever is on the engine, and nothing else
                self._fail_running(error)
        self._end_all()
        self._loop.close()  # here, for this thread may be the one that closes

    def _wait_for_work(self) -> bool:
        """False when it is time to go."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._waiting or self._running)
            return not self._closed

    def _drop_cancelled(self) -> None:
        with self._wake:
            queued = [ticket for ticket in self._waiting if ticket.cancelled]
        running = [ticket for ticket in self._running.values() if ticket.cancelled]
        for ticket in dict.fromkeys([*queued, *running]):
            self._end(ticket, CancelledError("the edit was cancelled"))

    def _admit(self) -> None:
        while not self._loop.full:
            with self._wake:
                if not self._waiting:
                    return
                ticket = self._waiting.popleft()
                ticket.started_at = ticket.started_at or time.perf_counter()
                number = ticket.numbers[ticket.admitted]
                task = Task(
                    ticket.plan,
                    ticket.guide,
                    ticket.mask,
                    ticket.seed,
                    number,
                    ticket.conditions,
                    ticket.null_conditions,
                )
                ticket.admitted += 1
                if ticket.admitted < len(ticket.numbers):
                    self._waiting.append(ticket)
            self._running[task] = ticket
            self._loop.admit(task)

    def _step(self) -> None:
        results = dict(self._loop.step())
        for task, ticket in self._running.items():
            self._report(task, ticket, results.get(task))
        for task, state in results.items():
            owner = self._running.pop(task, None)
            if owner is None:
                continue  # another of its images has just failed
            if not np.isfinite(state).all():
                message = "the network returned values that are not finite; the result is not an image"
                self._end(owner, EngineError(message))
                continue
            owner.states[task.image] = state
            if len(owner.states) == len(owner.numbers):
                self._end(owner, None)

    def _report(self, task: Task, ticket: Ticket, result: np.ndarray | None) -> None:
        step = self._steps[ticket] = self._steps.get(ticket, 0) + 1
        x0 = None
        if ticket.watchers:
            x0 = self._loop.prediction(task) if result is None else result
        with ticket.changed:
            ticket.progress = Progress(step, ticket.steps, task.image, x0)
            ticket.changed.notify_all()

    def _fail_running(self, error: Exception) -> None:
        for ticket in dict.fromkeys(self._running.values()):
            self._end(ticket, error)
        self._loop.clear()

    def _end_all(self) -> None:
        for ticket in dict.fromkeys([*self._running.values(), *self._waiting]):
            self._end(ticket, CancelledError("the edit was cancelled: its editor was closed"))

    def _end(self, ticket: Ticket, error: BaseException | None) -> None:
        """Free what the ticket holds and tell those who wait; only its first end counts."""
        with self._wake:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        for task in [task for task, owner in self._running.items() if owner is ticket]:
            self._loop.drop(task)
            del self._running[task]
        self._steps.pop(ticket, None)
        with ticket.changed:
            if not ticket.done:
                ticket.error = error
                ticket.finished_at = time.perf_counter()
                ticket.changed.notify_all()
