"""HTTP connections with deadlines, which uvicorn does not have: for a request to arrive, and for an answer to leave."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits


def deadline_protocol(limits: Limits, closed_slow: Callable[[], None]) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn. closed_slow: called when a connection was closed for being slow."""

    class DeadlineProtocol(H11Protocol):
        """Closes a connection whose request is not there after receive_seconds, or that takes no answer."""

        _receiving: asyncio.TimerHandle | None = None
        _sending: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._receiving = self.loop.call_later(limits.receive_seconds, self._close_slow)

        def data_received(self, data: bytes) -> None:
            if self._receiving is None and (self.cycle is None or self.cycle.response_complete):
                self._receiving = self.loop.call_later(limits.receive_seconds, self._close_slow)
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

        def _close_slow(self) -> None:
            if not self.transport.is_closing():
                closed_slow()
                self.transport.abort()

    return DeadlineProtocol


def stop(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one."""
    if timer is not None:
        timer.cancel()
