"""A ticket: one job, as its worker and the threads that follow it share it.

Ctrl-C may interrupt the main thread after any call. So a ticket shares state by single assignments, and by locks that
the interpreter takes and frees in one operation: `with` on a lock, and Flag.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sdedit.errors import CancelledError

from ..loop import Task
from .flag import Flag

LOG = logging.getLogger("sdedit")


@dataclass(frozen=True, eq=False)
class Progress:
    """State of a job after one of its network evaluations.

    step: evaluations done. steps: evaluations in all, of all images together. image: number of the image that the
    newest evaluation was for. seconds_left: estimate from the mean duration of a step so far, None before the first.
    x0: a copy of that image's newest prediction, float32 [C, H, W], if this event has a preview; Job.preview decodes
    it. done: this is the last event; the job ended with a result, with an error, or cancelled.
    """

    step: int
    steps: int
    image: int
    seconds_left: float | None = None
    x0: np.ndarray | None = None
    done: bool = False


@dataclass(eq=False)
class Listener:
    """A callback of a job.

    wants_preview: called after each step with its number; whether to copy the newest prediction for the callback.
    """

    callback: Callable[[Progress], object]
    wants_preview: Callable[[int], bool] = lambda step: False
    stopped: bool = False
    ended: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, progress: Progress) -> None:
        """Call back, at most once with the end of the job. A callback that raises is logged and not called again."""
        if self.stopped or (progress.done and not self.ended.acquire(blocking=False)):
            return
        try:
            self.callback(progress)
        except BaseException as error:
            if not isinstance(error, Exception) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C
            self.stopped = True
            LOG.exception("a callback of a job failed and is not called again")


@dataclass(eq=False)
class Ticket:
    """One job. tasks: its images, at least one.

    results: float32 [C, H, W] by task. started_at, finished_at: seconds of time.perf_counter. failure: what the job is
    cancelled with, instead of a CancelledError. Only the worker writes, except to cancelled, failure and listeners.
    """

    tasks: Sequence[Task]
    admitted: int = 0
    results: dict[Task, np.ndarray] = field(default_factory=dict)
    cancelled: bool = False
    failure: BaseException | None = None
    error: BaseException | None = None
    started_at: float = 0.0
    finished_at: float | None = None
    listeners: list[Listener] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: Flag = field(default_factory=Flag)
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(0, sum(len(task.plan.rows) for task in self.tasks), self.tasks[0].image)

    @property
    def done(self) -> bool:
        return self.finished_at is not None

    # For any thread.

    def cancel(self, failure: BaseException | None = None) -> bool:
        """Ask for the end at the next step, with `failure` or a CancelledError. False if the job had ended already."""
        with self.lock:
            if self.done:
                return False
            self.failure = self.failure or failure
            self.cancelled = True
            return True

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the job ended within `timeout` seconds (None: without a limit)."""
        return self.ended.wait(timeout)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Tell the listener of each step from now on, and of the end; the function that is returned stops it."""
        self.listeners.append(listener)
        if self.done:
            listener.tell(self.progress)

        def stop() -> None:
            listener.stopped = True

        return stop

    # For the worker.

    def advance(self, image: int, result: np.ndarray | None) -> list[Listener]:
        """Count one evaluation for that image and tell the listeners, but for those returned, which want a preview.

        result: of the image, if this evaluation was its last.
        """
        last = self.progress
        step = last.step + 1
        mean = (time.perf_counter() - self.started_at) / step
        progress = replace(last, step=step, image=image, seconds_left=mean * (last.steps - step), x0=result)
        self.progress = progress
        self.listeners[:] = [listener for listener in self.listeners if not listener.stopped]
        wanting = [listener for listener in list(self.listeners) if listener.wants_preview(step)]
        if result is not None:
            wanting = []  # the result is the preview
        for listener in list(self.listeners):
            if listener not in wanting:
                listener.tell(progress)
        return wanting

    def end(self, error: BaseException | None) -> None:
        """The job's end: with the results, or with an error. Only the first call counts."""
        with self.lock:
            if self.done:
                return
            if self.cancelled and error is None:
                error = self.failure or CancelledError("the edit was cancelled")
            x0 = self.progress.x0 if error is None else None
            self.progress = replace(self.progress, seconds_left=0.0, x0=x0, done=True)
            self.error = error
            self.finished_at = time.perf_counter()
        self.ended.set()
        for listener in list(self.listeners):
            listener.tell(self.progress)
