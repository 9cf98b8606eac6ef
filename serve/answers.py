"""Answers that take time: whoever waits for one and goes away cancels the edit."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .desk import Running
from .problems import client_gone
from .wire import STREAM, error_event, finished_events, step_event

T = TypeVar("T")

STREAM_HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}


async def until_gone(receive: Receive) -> None:
    """Return when the client has closed the connection. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def attended(request: Request, running: Running, waiting: Coroutine[Any, Any, T]) -> T:
    """Wait, and return what was waited for. If the client goes first, cancel the edit and raise Problem 499."""
    gone, work = asyncio.ensure_future(until_gone(request.receive)), asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise client_gone()
        return work.result()
    except BaseException:
        running.cancel(client_gone())
        raise
    finally:
        gone.cancel()
        work.cancel()


class EventStream(Response):
    """Server-sent events. The edit is cancelled when the client goes."""

    media_type = STREAM

    def __init__(self, running: Running, events: AsyncIterator[str]) -> None:
        super().__init__(headers=STREAM_HEADERS)
        del self.headers["content-length"]
        self._running = running
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone, sending = asyncio.ensure_future(until_gone(receive)), asyncio.ensure_future(self._send(send))
        try:
            await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._running.cancel(client_gone())
            gone.cancel()
            sending.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for text in self._events:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def edit_events(running: Running, most_previews: int | None = None) -> AsyncIterator[str]:
    """The events of an edit: steps and previews, then the images or an error. most_previews: None for all."""
    sent = 0
    async for step in running.steps():
        if step is None:
            yield ": waiting\n\n"
        elif step.preview is None or most_previews is None or sent < most_previews:
            yield step_event(step, sent)
            sent += step.preview is not None
    problem = running.problem
    yield finished_events(running.task.result()) if problem is None else error_event(problem)
