"""Errors as HTTP has them: a status, one line, and nothing about the machine behind it."""

import errno
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException

from sdedit.errors import CancelledError, EngineError, SdeditError, printable

LOG = logging.getLogger("sdedit")

STATUS_OF: Mapping[type[SdeditError], int] = {CancelledError: 409, EngineError: 500}
"""Statuses of the runtime's errors; all others are mistakes in a request: 422."""


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer that is an error. kind: its type in the answer's JSON. headers: further ones of the answer."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = printable(message)
        self.kind = kind
        self.headers = dict(headers or {})

    def __reduce__(self) -> tuple[type["Problem"], tuple[int, str, str, dict[str, str]]]:
        return type(self), (self.status, self.message, self.kind, self.headers)  # to send it to another process

    def as_json(self) -> dict[str, Any]:
        """The body of the answer, as OpenAI's clients read it."""
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": None}}

    def as_a1111(self) -> dict[str, Any]:
        """The body of the answer, as A1111's clients read it."""
        return {"error": self.kind, "detail": self.message, "body": "", "errors": self.message}


def client_gone() -> Problem:
    """The client closed the connection. Nobody reads this answer; it is counted."""
    return Problem(499, "the client has gone", "client_gone")


def overloaded(message: str, seconds: float) -> Problem:
    """A refusal that says after how many seconds to try again."""
    return Problem(503, message, "overloaded", {"retry-after": str(max(1, math.ceil(seconds)))})


def check_wait(wait: float, limit: float) -> None:
    """Raise Problem 503 if a new edit would wait for longer than the limit (both in seconds)."""
    if wait > limit:
        raise overloaded(f"an edit would wait about {wait:.0f} s, above {limit:g} s", wait - limit)


def problem_of(error: BaseException) -> Problem:
    """The answer for any error. One that nobody foresaw goes to the log, and its text to nobody else."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        return Problem(error.status_code, str(error.detail), headers=error.headers)
    if isinstance(error, SdeditError):
        status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 422)
        return Problem(status, str(error), type(error).__name__)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Problem(507, "the upload cannot be kept: the server's disk is full", "insufficient_storage")
    LOG.error("a request failed", exc_info=error)
    return Problem(500, "the server failed on this request; its log says why", "server_error")
