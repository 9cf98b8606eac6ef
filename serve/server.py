"""A server process: its socket, its signals, and how it ends."""

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from .limits import Limits
from .protocol import deadline_protocol
from .shedding import Refusal, Shedder
from .telemetry import Telemetry

SIGNALS = (signal.SIGINT, signal.SIGTERM)

AFTER_GRACE = 5.0
"""Seconds for the last answers, after the edits that were left have been cancelled."""


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not listening yet. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(server: "DrainingServer", bound: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, and return when all answers are given.

    After the signal new edits are refused. Edits that are not done grace_seconds later are cancelled, and their clients
    told. A second SIGINT ends at once.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed form
    asyncio.run(server.serve([bound]))


def make_server(app: Starlette, limits: Limits, telemetry: Telemetry, started: Callable[[], None]) -> "DrainingServer":
    """The server of an application. started: called when it listens."""

    def refuse(data: bytes) -> Refusal | None:
        shedder: Shedder = app.state.shedder  # it is there before the first connection
        return shedder.refuse(data)

    config = uvicorn.Config(
        app,
        http=deadline_protocol(limits, telemetry.closed_slow, refuse),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=int(limits.grace_seconds + AFTER_GRACE),
    )
    return DrainingServer(config, app, limits, started)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, with an end that leaves no edit without an answer, and exit code 0."""

    def __init__(self, config: uvicorn.Config, app: Starlette, limits: Limits, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._app = app
        self._limits = limits
        self._on_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals while serving, if a process's main thread serves.

        uvicorn's own method would raise them again afterwards, and the process would end by them.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; at the second Ctrl-C end at once."""
        if self.should_exit:
            self.force_exit = self.force_exit or sig == signal.SIGINT
            return
        self.should_exit = True
        desk = getattr(self._app.state, "desk", None)
        if desk is not None:
            desk.drain()
            asyncio.get_running_loop().call_later(self._limits.grace_seconds, desk.cancel_all)
