"""Refusals of edits that would wait too long, given before a request is parsed.

The parser and the application take a millisecond of processor time for each request. In a burst the last request would
therefore wait for all others, only to be refused. So a refusal is decided from the head of a request, if the head is of
the plainest kind. Every other request goes through the application, which gives the same answer.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from starlette.responses import JSONResponse, Response

from .desk import Desk
from .guard import SECURITY_HEADERS, Access
from .problems import Problem

HEAD = re.compile(rb"POST (/v1/edits|/v1/jobs|/v1/images/edits) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+:[\t -~]*\r\n)+)\r\n")
"""A request for an edit whose errors are JSON as Problem.as_json has it; group 2 has the header fields."""

UNUSUAL = {"transfer-encoding", "expect", "upgrade"}
"""Header fields after which the body is not simply `content-length` bytes."""

MOST_DIGITS = 15
"""Digits of a content-length."""


@dataclass(frozen=True)
class Head:
    """Head of a request. headers: by lower-case name. body: bytes of the body. here: bytes of it that have come."""

    path: str
    headers: Mapping[str, str]
    body: int
    here: int


@dataclass(frozen=True)
class Refusal:
    """An answer. missing: bytes of the request's body that have not come yet."""

    response: Response
    missing: int


Refuse = Callable[[bytes], Refusal | None]
"""Takes the first bytes of a request. Returns None if the request is to be parsed and goes to the application."""


class Shedder:
    """Refuses requests for edits by their heads, after the same checks as the application's. Needs the event loop."""

    def __init__(self, desk: Desk, access: Access) -> None:
        self._desk = desk
        self._access = access
        self._let_in = 0.0

    def refuse(self, data: bytes) -> Refusal | None:
        """See Refuse. A refusal is counted in the metrics."""
        head = read_head(data)
        if head is None:
            return None
        try:
            self._access.check(head.path, "POST", head.headers)
        except Problem:
            return None  # the application refuses it
        try:
            self._desk.check_room(self._let_in)
        except Problem as problem:
            self._desk.telemetry.answered(problem.status)
            response = response_to(problem.status, problem.message, problem.kind, tuple(problem.headers.items()))
            return Refusal(response, head.body - head.here)
        self._expect(head.here / head.body if head.body else 1.0)
        return None

    def _expect(self, share: float) -> None:
        """Count a request until it has reached the desk, which counts it from then on.

        All requests of a turn of the event loop come before the application sees the first of them. It sees them in the
        next turn.
        """
        if not self._let_in:
            asyncio.get_running_loop().call_soon(self._forget)
        self._let_in += share

    def _forget(self) -> None:
        self._let_in = 0.0


@lru_cache(maxsize=16)  # the refusals of a burst are alike
def response_to(status: int, message: str, kind: str, headers: tuple[tuple[str, str], ...]) -> Response:
    """The answer to a problem, as the application gives it; but the connection is closed after it."""
    content = Problem(status, message, kind).as_json()
    return JSONResponse(content, status, {**dict(headers), "connection": "close", **SECURITY_HEADERS})


def read_head(data: bytes) -> Head | None:
    """The head of a request for an edit. None for other requests, and for a head that is not whole or unusual."""
    found = HEAD.match(data)
    if found is None:
        return None
    fields = [line.partition(":") for line in found[2].decode("ascii").splitlines()]
    headers = {name.lower(): value.strip() for name, _, value in fields}
    length = headers.get("content-length", "")
    if len(headers) < len(fields) or UNUSUAL & headers.keys() or not length.isdigit() or len(length) > MOST_DIGITS:
        return None
    body = int(length)
    return Head(found[1].decode("ascii"), headers, body, min(body, len(data) - found.end()))
