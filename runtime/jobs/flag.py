"""An event that Ctrl-C cannot break.

Ctrl-C may interrupt the main thread after any call. threading.Event is made of a Condition, which an interrupt can
leave locked for ever, and after an interrupt Thread.join can take a running thread for one that has ended.
"""

import threading
import time
from contextlib import suppress

SLICE = 0.2
"""Seconds. Every wait is made of slices of this length: on Windows, Ctrl-C reaches a thread only between two waits."""


class Flag:
    """Set once, for good; any number of threads may wait for it."""

    def __init__(self) -> None:
        self.is_set = False
        self._unset = threading.Lock()
        self._unset.acquire()

    def set(self) -> None:
        self.is_set = True
        with suppress(RuntimeError):  # it was set before
            self._unset.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it was set within `timeout` seconds (None: without a limit)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.is_set:
            left = SLICE if deadline is None else min(SLICE, deadline - time.monotonic())
            if left <= 0:
                return False
            if self._unset.acquire(timeout=left):  # a waiter that is interrupted here costs the others one slice
                self._unset.release()
        return True
