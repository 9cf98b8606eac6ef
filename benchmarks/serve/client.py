"""A small HTTP client in asyncio. It can do what libraries hide: send half a request, or go away in the middle."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

STREAM = "text/event-stream"
TIMEOUT = 120.0
"""Seconds after which an answer is given up."""


@dataclass(frozen=True)
class Answer:
    """status: 0 if the connection ended without an answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def multipart(files: Mapping[str, bytes], fields: Mapping[str, object]) -> tuple[dict[str, str], bytes]:
    """Headers and body of a form."""
    boundary = secrets.token_hex(8)
    parts = [(f'name="{name}"', str(value).encode()) for name, value in fields.items()]
    parts += [(f'name="{name}"; filename="{name}"', data) for name, data in files.items()]
    body = b"".join(
        f"--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n"
        for head, data in parts
    )
    return {"content-type": f"multipart/form-data; boundary={boundary}"}, body + f"--{boundary}--\r\n".encode()


def head_bytes(port: int, method: str, path: str, headers: Mapping[str, object]) -> bytes:
    """The bytes before a request's body."""
    lines = {"host": f"127.0.0.1:{port}", "connection": "close", **headers}
    return "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode()


def request_bytes(port: int, method: str, path: str, headers: Mapping[str, object], body: bytes) -> bytes:
    """A whole request."""
    return head_bytes(port, method, path, {"content-length": len(body), **headers}) + body


class Incoming:
    """An answer that comes in."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    async def read_head(self) -> Answer:
        """Status and headers of the answer."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return Answer(int(lines[0].split()[1]), headers)

    async def read(self) -> Answer:
        """The whole answer."""
        head = await self.read_head()
        if "content-length" in head.headers:
            body = await self.reader.readexactly(int(head.headers["content-length"]))
        else:
            body = b"".join([chunk async for chunk in self.chunks()])
        return Answer(head.status, head.headers, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The chunks of an answer whose head was read, as they come."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self.reader.readexactly(size)
            await self.reader.readexactly(2)


class Connection(Incoming):
    """One connection, used for one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        super().__init__(reader)
        self.writer, self._port = writer, port

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a server of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port), port)

    def head(self, method: str, path: str, headers: Mapping[str, object]) -> bytes:
        """The bytes before a request's body."""
        return head_bytes(self._port, method, path, headers)

    async def send(self, method: str, path: str, headers: Mapping[str, object], body: bytes = b"") -> None:
        """Send a whole request."""
        self.writer.write(request_bytes(self._port, method, path, headers, body))
        await self.writer.drain()

    def abort(self) -> None:
        """Go away."""
        self.writer.transport.abort()


async def request(
    port: int, method: str, path: str, headers: Mapping[str, object] | None = None, body: bytes = b""
) -> Answer:
    """One request and its answer. Errors of the connection are status 0."""

    async def go() -> Answer:
        connection = await Connection.open(port)
        try:
            await connection.send(method, path, headers or {}, body)
            return await connection.read()
        finally:
            connection.abort()

    try:
        return await asyncio.wait_for(go(), TIMEOUT)
    except (OSError, asyncio.IncompleteReadError, TimeoutError):
        return Answer(0)


async def read_answer(received: bytes | bytearray) -> Answer:
    """The answer in all bytes of a connection; status 0 if it is not whole."""
    reader = asyncio.StreamReader()
    reader.feed_data(received)
    reader.feed_eof()
    try:
        return await Incoming(reader).read()
    except asyncio.IncompleteReadError:
        return Answer(0)


async def edit(port: int, guide: bytes, headers: Mapping[str, object] | None = None, **fields: object) -> Answer:
    """One edit."""
    kind, body = multipart({"guide": guide}, fields)
    return await request(port, "POST", "/v1/edits", {**kind, **(headers or {})}, body)


async def metric(port: int, name: str) -> float:
    """The value of one of the server's metrics."""
    text = (await request(port, "GET", "/metrics")).body.decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))
