"""Jobs: edits in flight. One worker thread owns the loop; all other threads only leave requests and wait."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sdedit.errors import CancelledError, EngineError

from .loop import Loop, Task

POLL_SECONDS = 0.5
"""Longest single wait. Longer ones are repeated: every system notices an interrupt, and no wake-up can be lost."""

CLOSE_SECONDS = 10.0
"""How long `close` waits for the step that is running."""

LOG = logging.getLogger("sdedit")


@dataclass(frozen=True)
class Progress:
    """Where a job stands. step of steps: network evaluations, all images together. image: number of the last one.

    seconds_left: estimated from the evaluations so far; None before the first. x0: a copy of the image's newest
    prediction, float32 [C, H, W], if this event has a preview. done: this is the job's last event.
    """

    step: int
    steps: int
    image: int
    seconds_left: float | None = None
    x0: np.ndarray | None = None
    done: bool = False


Listener = Callable[[Progress], None]


@dataclass(eq=False)
class Subscription:
    """A listener of a ticket. every: evaluations from one preview to the next; 0: none. asked: with the next event."""

    listener: Listener
    every: int = 0
    asked: bool = False

    def wants_preview(self, step: int) -> bool:
        return self.asked or (self.every > 0 and step % self.every == 0)


@dataclass(eq=False)
class Ticket:
    """One job as the worker sees it: its tasks, one an image. `changed` guards everything that changes.

    states: results by the task's image number, float32 [C, H, W].
    """

    tasks: Sequence[Task]
    admitted: int = 0
    states: dict[int, np.ndarray] = field(default_factory=dict)
    progress: Progress | None = None
    subscriptions: list[Subscription] = field(default_factory=list)
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
        return sum(len(task.plan.rows) for task in self.tasks)

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the job ended within `timeout` seconds."""
        with self.changed:
            return wait_for(self.changed, lambda: self.done, timeout)

    def subscribe(self, subscription: Subscription) -> None:
        """Add a listener; one that comes after the end hears only of the end, at once."""
        with self.changed:
            self.subscriptions.append(subscription)
            if not self.done:
                return
        self.tell(self.last_event(), [subscription])

    def unsubscribe(self, subscription: Subscription) -> None:
        with self.changed, contextlib.suppress(ValueError):
            self.subscriptions.remove(subscription)

    def last_event(self) -> Progress:
        last = self.progress or Progress(0, self.steps, self.tasks[0].image)
        return replace(last, seconds_left=None, x0=None, done=True)

    def tell(self, event: Progress, subscriptions: Sequence[Subscription]) -> None:
        """Call listeners. One that raises is logged and not called again: it harms neither the edit nor others."""
        for subscription in subscriptions:
            try:
                subscription.listener(event)
            except Exception:
                LOG.exception("a listener of a job failed and is not called again")
                self.unsubscribe(subscription)


@dataclass(frozen=True)
class Preview:
    """An event whose prediction is being copied. fetch: waits for the copy."""

    ticket: Ticket
    event: Progress
    subscriptions: Sequence[Subscription]
    fetch: Callable[[], np.ndarray]

    def deliver(self) -> None:
        if not self.ticket.done:
            self.ticket.tell(replace(self.event, x0=self.fetch()), self.subscriptions)


class Worker:
    """Runs tickets on a loop, in a thread that starts with the first one and ends with `close`.

    Free slots go to the waiting jobs in turn, one image each, so that a job of many images holds up no other.
    max_waiting: jobs that may wait for a slot; None: any number.
    """

    def __init__(self, loop: Loop, max_waiting: int | None = None) -> None:
        self._loop = loop
        self._max_waiting = max_waiting
        self._process = os.getpid()
        self._wake = threading.Condition()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[Task, Ticket] = {}
        self._steps: dict[Ticket, int] = {}
        self._late: list[Preview] = []
        self._thread: threading.Thread | None = None
        self._closed = False

    def check_process(self) -> None:
        """Raise EngineError in a child of the process that opened the editor; no lock is taken before this."""
        if os.getpid() != self._process:
            raise EngineError("the editor was opened before this process was forked: open one in this process")

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket; raises EngineError after `close`, if too many wait, and if no thread can be started."""
        self.check_process()
        with self._wake:
            if self._closed:
                raise EngineError("the editor is closed: open another")
            if self._max_waiting is not None and len(self._waiting) >= self._max_waiting:
                raise EngineError(
                    f"{len(self._waiting)} jobs are waiting, max_waiting {self._max_waiting}: try again later"
                )
            self._start()
            self._waiting.append(ticket)
            self._wake.notify_all()

    def cancel(self, ticket: Ticket) -> bool:
        """Ask for its end at the next step boundary; False if it had ended."""
        self.check_process()
        with self._wake, ticket.changed:
            if ticket.done:
                return False
            ticket.cancelled = True
            self._wake.notify_all()
            return True

    def close(self) -> None:
        """Cancel the jobs in flight and end the thread. It may be called twice, and from any thread.

        A step that runs longer than CLOSE_SECONDS is left behind in its thread. In a forked child nothing happens.
        """
        if os.getpid() != self._process:
            return
        with self._wake:
            self._closed = True
            self._wake.notify_all()
            thread = self._thread
        if thread is None:
            self._loop.close()
        elif thread is not threading.current_thread():
            end = time.monotonic() + CLOSE_SECONDS
            while thread.is_alive() and time.monotonic() < end:
                thread.join(POLL_SECONDS)

    def _start(self) -> None:
        """Start the thread, once; it counts only when it runs."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._work, name="sdedit", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            raise EngineError(f"no thread can be started for the edit: {error}") from None
        self._thread = thread

    def _work(self) -> None:
        while self._wait_for_work():
            try:
                self._drop_cancelled()
                self._admit()
                if self._loop.busy:
                    self._step()
            except Exception as error:  # an engine's failure concerns the jobs on the engine, and no others
                self._fail_running(error)
        self._end_all()
        self._loop.close()  # here, for this thread may be the one that closes

    def _wait_for_work(self) -> bool:
        """False when it is time to go."""
        with self._wake:
            wait_for(self._wake, lambda: self._closed or bool(self._waiting) or bool(self._running), None)
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
                ticket = self._waiting[0]
                ticket.started_at = ticket.started_at or time.perf_counter()
                task = ticket.tasks[ticket.admitted]
                self._running[task] = ticket  # from here on a failure ends the ticket
                ticket.admitted += 1
                self._waiting.popleft()
                if ticket.admitted < len(ticket.tasks):
                    self._waiting.append(ticket)
            self._loop.admit(task)

    def _step(self) -> None:
        results = dict(self._loop.step())
        self._deliver_late()
        for task, ticket in list(self._running.items()):
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
            if len(owner.states) == len(owner.tasks):
                self._end(owner, None)

    def _report(self, task: Task, ticket: Ticket, result: np.ndarray | None) -> None:
        """Tell the ticket's listeners; the newest prediction is copied once, and only if one of them wants it."""
        step = self._steps[ticket] = self._steps.get(ticket, 0) + 1
        left = (time.perf_counter() - ticket.started_at) / step * (ticket.steps - step)
        event = Progress(step, ticket.steps, task.image, left)
        with ticket.changed:
            ticket.progress = event
            subscriptions = list(ticket.subscriptions)
            wanting = [one for one in subscriptions if one.wants_preview(step)]
            for one in wanting:
                one.asked = False
        ticket.tell(event, [one for one in subscriptions if one not in wanting])
        if not wanting:
            return
        if result is not None:
            ticket.tell(replace(event, x0=result), wanting)
            return
        preview = Preview(ticket, event, wanting, self._loop.prediction(task))
        if self._loop.runs_ahead:
            self._late.append(preview)  # the device goes on with the next step before anyone waits for the copy
        else:
            preview.deliver()

    def _deliver_late(self) -> None:
        late, self._late = self._late, []
        for preview in late:
            preview.deliver()

    def _fail_running(self, error: Exception) -> None:
        for ticket in dict.fromkeys(self._running.values()):
            self._end(ticket, error)
        self._late.clear()
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
            if ticket.done:
                return
            ticket.error = error
            ticket.finished_at = time.perf_counter()
            subscriptions = list(ticket.subscriptions)
            ticket.changed.notify_all()
        ticket.tell(ticket.last_event(), subscriptions)


def wait_for(condition: threading.Condition, predicate: Callable[[], bool], timeout: float | None) -> bool:
    """Whether the predicate came true within `timeout` seconds (None: without end), in waits of POLL_SECONDS at most.

    The caller holds the condition's lock.
    """
    end = None if timeout is None else time.monotonic() + timeout
    while not predicate():
        left = POLL_SECONDS if end is None else min(end - time.monotonic(), POLL_SECONDS)
        if left <= 0:
            return False
        condition.wait(left)
    return True
