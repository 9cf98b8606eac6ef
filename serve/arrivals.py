"""Requests for edits that are being read. They count as work already, so that a burst is refused before it is read."""

from collections.abc import Callable, Mapping

from starlette.requests import Request
from starlette.types import Message


class Arrival:
    """A request whose edit has not begun.

    request: the one to read the body from. share: of the body, 0 to 1, that is here; a client that sends slowly
    therefore takes little room from others.
    """

    def __init__(self, request: Request, check: Callable[["Arrival"], None]) -> None:
        """check: raises Problem if no more of the body should be read."""
        self.request = Request(request.scope, self._receive)
        self.share = 0.0
        self._receive_more = request.receive
        self._check = check
        self._declared = declared_bytes(request.headers)
        self._size = 0

    async def _receive(self) -> Message:
        self._check(self)
        message = await self._receive_more()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.share = 1.0
            elif self._declared:
                self.share = min(1.0, self._size / self._declared)
        return message


def declared_bytes(headers: Mapping[str, str]) -> int:
    """The length that a request says its body has; 0 if it does not say so."""
    length = headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() else 0
