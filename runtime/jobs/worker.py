"""The worker: a thread that runs tickets on a loop, and nothing else does."""

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

import numpy as np

from sdedit.errors import CancelledError, EngineError, out_of_memory, reason

from ..loop import Loop, Task
from .flag import SLICE, Flag
from .ticket import LOG, Listener, Progress, Ticket

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
        self._lock = threading.RLock()  # of the next four; reentrant, since the garbage collector may close inside
        self._waiting: deque[Ticket] = deque()
        self._unfinished: set[Ticket] = set()
        self._closed = False
        self._thread: threading.Thread | None = None  # the one that owns the loop
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._running: dict[Task, Ticket] = {}
        self._late: list[LatePreview] = []
        self._ending = threading.RLock()
        self._finished = Flag()

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
        May be called again, and from any thread; from a job's callback it does not wait. After a Ctrl-C, call it again.
        """
        if os.getpid() != self._process:
            self._keep_for_ever()
            return True
        with self._lock:
            self._closed = True
        self._wakes.put(None)
        if self.is_this_thread():
            return True
        if self._thread is None:  # no thread came before the end, and none will
            self._finish()
        if not self._finished.wait(seconds):
            return False
        if self._thread is not None:
            self._thread.join(SLICE)  # it has nothing left to do
        return True

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

    def _keep_for_ever(self) -> None:
        """Never free the engine in a child process: engines wait there for threads that only the parent has."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._loop))

    # The thread.

    def _work(self) -> None:
        with self._lock:
            if self._closed or self._thread is not None:
                return
            self._thread = threading.current_thread()
        try:
            while not self._closed:
                try:
                    self._take_turn()
                except Exception as error:  # an engine's failure concerns what is on the engine, and nothing else
                    self._fail_running(error)
        finally:
            self._finish()  # here, for this thread may be the one that closes

    def _finish(self) -> None:
        """End all jobs and free the device. If a Ctrl-C came between, the next call does the rest."""
        with self._lock:
            self._closed = True
        with self._ending:
            if self._finished.is_set:
                return
            try:
                self._end_all()
                self._loop.close()
            except Exception:
                LOG.exception("the editor's device could not be freed")
            self._finished.set()

    def _take_turn(self) -> None:
        """Wait until there is work, then bring everything that runs one step on."""
        self._wait_for_work()
        if self._closed:
            return
        self._drop_cancelled()
        self._admit()
        if self._loop.busy:
            self._step()

    def _wait_for_work(self) -> None:
        with suppress(Empty):
            while True:
                self._wakes.get_nowait()
        while not (self._closed or self._waiting or self._running):
            self._wakes.get()

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
            owner = self._running.get(task)
            if owner is None:
                continue  # another of its images has just failed
            if not np.isfinite(state).all():
                self._end(owner, EngineError(NOT_FINITE))
                continue
            owner.results[task] = state
            if len(owner.results) == len(owner.tasks):
                self._end(owner, None)
            self._running.pop(task, None)  # not before: whatever fails until then is its job's failure

    def _deliver_late(self) -> None:
        late, self._late = self._late, []
        for preview in late:
            preview.deliver()

    def _fail_running(self, error: Exception) -> None:
        """End what is on the engine; if nothing is, what was to come next, so that the thread gets on."""
        if isinstance(error, MemoryError):
            error = EngineError(out_of_memory("the edit", error))
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
