"""Who may ask what: hosts, origins of pages, the key, and how much a request may send. An ASGI middleware."""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection, Mapping
from contextlib import suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdedit.errors import shown

from .arrivals import declared_bytes
from .limits import Limits
from .problems import Problem, overloaded
from .telemetry import Telemetry

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths without any check: those who look after containers ask for them by address."""

API_PATHS = ("/v1/", "/sdapi/", "/metrics", "/openapi.json")
"""Paths that need the key. The page's own files hold no secret."""

SAFE_METHODS = ("GET", "HEAD")

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Access:
    """Who may ask what."""

    def __init__(self, hosts: Collection[str], key: str | None) -> None:
        """hosts: names that the server is asked by, without ports. key: None where none is needed."""
        self._hosts = frozenset(host.lower() for host in hosts)
        self._key = key

    def check(self, path: str, method: str, headers: Mapping[str, str]) -> None:
        """Raise Problem 401 or 403 for a request that is not allowed. headers: by lower-case name."""
        if path in OPEN_PATHS:
            return
        if (host := host_name(headers.get("host", ""))) not in self._hosts:
            raise Problem(403, f"host {shown(host)} is not served here", "forbidden")
        if method not in SAFE_METHODS or path.startswith(API_PATHS):
            check_origin(headers)
        if self._key is not None and path.startswith(API_PATHS):
            check_key(headers, self._key)


class Guard:
    """Refuses what should not come in, counts answers, and gives every answer the security headers."""

    def __init__(self, app: ASGIApp, access: Access, limits: Limits, telemetry: Telemetry) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._telemetry = telemetry
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                self._telemetry.answered(message["status"])
            await send(message)

        try:
            self._access.check(scope["path"], scope["method"], Headers(scope=scope))
        except Problem as problem:
            headers = {**problem.headers, "connection": "close"}  # its body is not read
            await JSONResponse(problem.as_json(), problem.status, headers)(scope, receive, send_safely)
            return
        body = Body(receive, declared_bytes(Headers(scope=scope)), self._limits, self)
        try:
            await self._app(scope, body.receive, send_safely)
        finally:
            self._held -= body.size

    def hold(self, size: int) -> None:
        """Count bytes that a request sent. Raises Problem 503 if all requests together hold too many."""
        self._held += size
        if self._held > self._limits.held_bytes:
            raise overloaded("the server holds too many uploads", 1)


class Body:
    """The body of one request, counted as it comes. size: bytes so far."""

    def __init__(self, receive: Receive, declared: int, limits: Limits, guard: Guard) -> None:
        self._receive = receive
        self._declared = declared
        self._limits = limits
        self._guard = guard
        self.size = 0

    async def receive(self) -> Message:
        """ASGI's receive. Raises Problem 413 for a body that is, or says that it will be, too large."""
        most = self._limits.body_bytes
        if self._declared > most:
            raise Problem(413, f"the body has {self._declared} bytes: at most {most} are taken", headers=CLOSE)
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self.size += size
            self._guard.hold(size)
            if self.size > most:
                raise Problem(413, f"the body has more than {most} bytes", headers=CLOSE)
        return message


CLOSE = {"connection": "close"}
"""The rest of a body that is too large is not read."""


def host_name(host: str) -> str:
    """A Host header without its port, in lower case."""
    name, _, port = host.rpartition(":")
    return (name if name and (port.isdigit() or not port) else host).lower()


def is_loopback(host: str) -> bool:
    """Whether an address or name to bind to is reached from this machine only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def served_hosts(host: str, allowed: Collection[str]) -> set[str]:
    """The Host names to answer to: those of this machine, the address bound to, and those that were allowed."""
    bound = f"[{host}]" if ":" in host else host
    return {"127.0.0.1", "localhost", "[::1]", bound, *allowed}


def check_origin(headers: Mapping[str, str]) -> None:
    """Raise Problem 403 for a request that a page of another site made.

    Browsers say so by Origin or by Sec-Fetch-Site; not every one says both.
    """
    origin = headers.get("origin")
    foreign = origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower()
    if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise Problem(403, "pages of other sites may not use this server", "forbidden")


def check_key(headers: Mapping[str, str], key: str) -> None:
    """Raise Problem 401 unless the key is given: as a bearer token, as X-API-Key, or as HTTP Basic's password."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    given = [headers.get("x-api-key", "")]
    if scheme.lower() == "bearer":
        given.append(value.strip())
    elif scheme.lower() == "basic":
        with suppress(binascii.Error, ValueError):
            given.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
    if not any(hmac.compare_digest(one.encode(), key.encode()) for one in given):
        raise Problem(401, "the key is missing or wrong", "invalid_api_key", {"www-authenticate": "Bearer"})
