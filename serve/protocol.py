"""HTTP connections with what uvicorn's lack: deadlines, and refusals that cost little.

A request has a deadline to arrive, and an answer has one to leave. An edit that would wait too long is refused before
its request is parsed.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits
from .shedding import Refuse


def deadline_protocol(limits: Limits, closed_slow: Callable[[], None], refuse: Refuse) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn. closed_slow: called when a connection was closed for being slow."""

    class DeadlineProtocol(H11Protocol):
        """Closes a connection whose request is not there after receive_seconds, or that takes no answer.

        _missing: bytes still to come of the body of a request that was refused; None while there was no such request.
        """

        _receiving: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None
        _missing: int | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._receiving = self.loop.call_later(limits.receive_seconds, self._close_slow)

        def data_received(self, data: bytes) -> None:
            if self._missing is not None:
                self._drop(len(data))
                return
            if self._receiving is None and (self.cycle is None or self.cycle.response_complete):
                self._receiving = self.loop.call_later(limits.receive_seconds, self._close_slow)
            if self._before_request and (refusal := refuse(data)) is not None:
                self._unset_keepalive_if_required()
                self.transport.write(as_bytes(refusal.response, self.server_state.default_headers))
                self._missing = refusal.missing
                self._drop(0)
                return
            super().data_received(data)
            if self.cycle is not None and not self.cycle.more_body:
                stop(self._receiving)
                self._receiving = None

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending = self._sending or self.loop.call_later(limits.send_seconds, self._close_slow)

        def resume_writing(self) -> None:
            super().resume_writing()
            stop(self._sending)
            self._sending = None

        def connection_lost(self, exc: Exception | None) -> None:
            stop(self._receiving)
            stop(self._sending)
            super().connection_lost(exc)

        @property
        def _before_request(self) -> bool:
            """Whether the next byte is the first one of a request."""
            return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

        def _drop(self, size: int) -> None:
            """Drop bytes of a body that is not wanted; close the connection after the last one.

            Closing earlier would reset the connection while the client sends, and the client could lose the answer.
            """
            self._missing = (self._missing or 0) - size
            if self._missing <= 0:
                self.transport.close()

        def _close_slow(self) -> None:
            if not self.transport.is_closing():
                closed_slow()
                self.transport.abort()

    return DeadlineProtocol


def as_bytes(response: Response, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole answer in HTTP/1.1."""
    status = HTTPStatus(response.status_code)
    lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
    lines += [name + b": " + value for name, value in (*default_headers, *response.raw_headers)]
    return b"\r\n".join([*lines, b"", response.body])


def stop(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one."""
    if timer is not None:
        timer.cancel()
