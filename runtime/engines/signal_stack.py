"""The stack on which a thread handles signals. OpenVINO replaces it, and may leave the thread with one that is gone."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack:
    """The alternative signal stack of this thread: sigaltstack(2)."""
    stack = SignalStack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Give the thread its own signal stack back at the end.

    OpenVINO's CPU plugin gives the thread that loads it a stack of its own, and frees that with the core, in whatever
    thread and order. The next signal with a handler (a host's, faulthandler's, that of torch's data
    loaders) then ended the process without a word.
    """
    if sys.platform != "linux":
        yield
        return
    stack = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
