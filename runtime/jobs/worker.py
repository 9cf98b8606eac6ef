"""The worker: a thread that runs tickets on a loop, and nothing else does."""

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import numpy as np

from sdedit.errors import CancelledError, EngineError, reason

from ..loop import Loop, Task
from .ticket import LOG, SLICE, Listener, Progress, Ticket

NOT_FINITE = "the network returned values that are not finite; the result is not an image"


@dataclass(frozen=True)
class LatePreview:
    """An event whose prediction is being copied. fetch: waits for the copy and returns it, float32 [C, H, W]."""

    ticket: Ticket
    progress: Progress
    listeners: Sequence[Listener]
    fetch: Callable[[], np.ndarray]

    def deliver(self) -> None:
        if self.ticket.done:
            return
        progress = replace(self.progress, x0=self.fetch())
        for listener in self.listeners:
            listener.tell(progress)


class Worker:
    """Runs tickets in a thread that starts with the first one and ends with `close`.

    Free slots go to the waiting jobs in turn, one image each, so that a job of many images holds up no other.
    max_jobs: jobs that may be in flight at once, waiting or running; None: any number.
    """

    def __init__(self, loop: Loop, max_jobs: int | None = None) -> None:
        self._loop = loop
        self._max_jobs = max_jobs
        self._process = os.getpid()
        self._lock = threading.Lock()  # of _waiting, _unfinished and _closed; held for a few instructions only
        self._waiting: deque[Ticket] = deque()
        self._unfinished: set[Ticket] = set()
        self._closed = False
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._running: dict[Task, Ticket] = {}
        self._late: list[LatePreview] = []
        self._owner = threading.Lock()  # taken, for good, by the thread that owns the loop
        self._thread: threading.Thread | None = None
        self._finished = False

    # For any thread.

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket. Raises EngineError after `close` or a fork, and if too many jobs are in flight."""
        self.check_process()
        try:
            with self._lock:
                if self._closed:
                    raise EngineError("the editor is closed: open another")
                if self._max_jobs is not None and len(self._unfinished) >= self._max_jobs:
                    raise EngineError(
                        f"{len(self._unfinished)} jobs are in flight, and the editor takes {self._max_jobs}: "
                        "submit again when one has ended"
                    )
                self._unfinished.add(ticket)
                self._waiting.append(ticket)
            self._wakes.put(None)
            self._start()
        except BaseException:  # Ctrl-C as well: nobody waits for this ticket
            ticket.cancelled = True
            self._unfinished.discard(ticket)
            raise

    def cancel(self, ticket: Ticket, failure: BaseException | None = None) -> bool:
        """See Ticket.cancel."""
        cancelled = ticket.cancel(failure)
        self._wakes.put(None)
        return cancelled

    def close(self, seconds: float) -> bool:
        """Cancel what is in flight and end the thread, within `seconds`; afterwards `submit` raises EngineError.

        False if the thread goes on: the engine has not returned from its evaluation. It ends when the engine returns.
        May be called again, and from any thread; from a job's callback it does not wait.
        """
        if os.getpid() != self._process:
            self._keep_for_ever()
            return True
        with self._lock:
            self._closed = True
        self._wakes.put(None)
        if self._owner.acquire(blocking=False):  # no thread ever did, and none will
            self._finish()
        return self.is_this_thread() or self._wait_for_end(seconds)

    def check_process(self) -> None:
        """Raise EngineError in a child process. To be called before anything that a fork may have left locked."""
        if os.getpid() != self._process:
            raise EngineError("the editor was opened before this process was forked: open one after the fork")

    def is_this_thread(self) -> bool:
        return self._thread is threading.current_thread()

    def _start(self) -> None:
        """Start the thread, unless one is at work. One too many ends at once, since it does not own the loop."""
        if self._thread is not None:
            return
        try:
            threading.Thread(target=self._work, name="sdedit", daemon=True).start()
        except RuntimeError as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Ctrl-C inside of start, which then stumbles
                raise error.__context__ from None
            raise EngineError(f"the editor cannot start its thread: {reason(error)}") from None

    def _wait_for_end(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            thread = self._thread
            if thread is not None:
                thread.join(min(left, SLICE))
            if self._finished and (thread is None or not thread.is_alive()):
                return True
            if thread is None:  # it owns the loop, and has not come to say so
                time.sleep(min(left, 0.001))
        return self._finished

    def _keep_for_ever(self) -> None:
        """Never free the engine in a child process: engines wait there for threads that only the parent has."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._loop))

    # The thread.

    def _work(self) -> None:
        if not self._owner.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        try:
            while self._wait_for_work():
                try:
                    self._drop_cancelled()
                    self._admit()
                    if self._loop.busy:
                        self._step()
                except Exception as error:  # an engine's failure concerns what is on the engine, and nothing else
                    self._fail_running(error)
        finally:
            self._finish()  # here, for this thread may be the one that closes

    def _finish(self) -> None:
        try:
            self._end_all()
            self._loop.close()
        finally:
            self._finished = True

    def _wait_for_work(self) -> bool:
        """False when it is time to go."""
        try:
            while True:
                self._wakes.get_nowait()
        except Empty:
            pass
        while not (self._closed or self._waiting or self._running):
            self._wakes.get()
        return not self._closed

    def _drop_cancelled(self) -> None:
        with self._lock:
            tickets = dict.fromkeys([*self._waiting, *self._running.values()])
        for ticket in tickets:
            if ticket.cancelled:
                self._end(ticket, None)

    def _admit(self) -> None:
        while not self._loop.full and self._waiting:
            ticket = self._waiting[0]
            task = ticket.tasks[ticket.admitted]
            self._running[task] = ticket  # first: whatever fails from here on is this ticket's failure
            with self._lock:
                self._waiting.popleft()
                ticket.admitted += 1
                if ticket.admitted < len(ticket.tasks):
                    self._waiting.append(ticket)
            ticket.started_at = ticket.started_at or time.perf_counter()
            self._loop.admit(task)

    def _step(self) -> None:
        results = dict(self._loop.step())
        self._deliver_late()
        for task, ticket in list(self._running.items()):
            if wanting := ticket.advance(task.image, results.get(task)):
                self._late.append(LatePreview(ticket, ticket.progress, wanting, self._loop.prediction(task)))
        if not self._loop.runs_ahead:  # a device that does takes its next step before anyone waits for a copy
            self._deliver_late()
        for task, state in results.items():
            owner = self._running.pop(task, None)
            if owner is None:
                continue  # another of its images has just failed
            if not np.isfinite(state).all():
                self._end(owner, EngineError(NOT_FINITE))
                continue
            owner.results[task] = state
            if len(owner.results) == len(owner.tasks):
                self._end(owner, None)

    def _deliver_late(self) -> None:
        late, self._late = self._late, []
        for preview in late:
            preview.deliver()

    def _fail_running(self, error: Exception) -> None:
        """End what is on the engine; if nothing is, what was to come next, so that the thread gets on."""
        if isinstance(error, MemoryError):
            error = EngineError("there is not enough memory for the edit")
        with self._lock:
            tickets = dict.fromkeys(self._running.values()) or dict.fromkeys([*self._waiting][:1])
        for ticket in tickets:
            self._end(ticket, error)
        self._late.clear()
        self._loop.clear()

    def _end_all(self) -> None:
        with self._lock:
            tickets = [*self._running.values(), *self._waiting]
        for ticket in dict.fromkeys(tickets):
            self._end(ticket, CancelledError("the edit was cancelled: its editor was closed"))

    def _end(self, ticket: Ticket, error: BaseException | None) -> None:
        """Free what the ticket holds and tell those who wait. error: None if it has its results, or was cancelled."""
        try:
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                self._unfinished.discard(ticket)
            for task in [task for task, owner in self._running.items() if owner is ticket]:
                self._running.pop(task)
                self._loop.drop(task)
        except Exception:
            LOG.exception("a job's slot could not be freed")
        finally:
            ticket.end(error)
