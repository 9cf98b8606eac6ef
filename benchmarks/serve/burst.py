"""Requests at the same moment. They take little of this process's time, so that they measure the server."""

import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from selectors import EVENT_READ, EVENT_WRITE

from .client import TIMEOUT


class Exchange:
    """A request and its answer, on a connection of its own.

    received: what has come of the answer. begun, ended: seconds of time.perf_counter, from before the connection until
    the server has closed it.
    """

    def __init__(self, port: int, request: bytes) -> None:
        self.begun = self.ended = time.perf_counter()
        self.received = bytearray()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self._unsent = memoryview(request)
        with suppress(BlockingIOError):  # the connection comes later
            self.socket.connect(("127.0.0.1", port))

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.begun

    def advance(self) -> int:
        """Do what can be done at once; returns the selector's event to wait for, 0 at the end."""
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
                return EVENT_WRITE if self._unsent else EVENT_READ
            block = self.socket.recv(1 << 16)
        except OSError:  # the connection is lost
            block = b""
        self.received += block
        self.ended = time.perf_counter()
        return EVENT_READ if block else 0


def burst(port: int, requests: Sequence[bytes]) -> list[Exchange]:
    """Send whole requests, which ask the server to close, all at once; wait for all answers.

    Answers that have not come after TIMEOUT seconds stay incomplete. Blocks the thread.
    """
    give_up = time.monotonic() + TIMEOUT
    with selectors.DefaultSelector() as selector, ExitStack() as sockets:
        exchanges = [Exchange(port, request) for request in requests]
        for exchange in exchanges:
            sockets.enter_context(exchange.socket)
            selector.register(exchange.socket, EVENT_WRITE, exchange)
        while selector.get_map() and time.monotonic() < give_up:
            for key, _ in selector.select(1.0):
                event = key.data.advance()
                if not event:
                    selector.unregister(key.fileobj)
                elif event != key.events:
                    selector.modify(key.fileobj, event, key.data)
    return exchanges
