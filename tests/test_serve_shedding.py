"""Edits that a full server refuses by their heads: the answer is the application's, and its checks come first."""

import asyncio
import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import h11
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from serving import WAIT, Served, fade, serving, wait_for
from stubs import stub_editor

from sdedit.serve.desk import Desk
from sdedit.serve.guard import Access
from sdedit.serve.limits import Limits
from sdedit.serve.shedding import Shedder, read_head
from sdedit.serve.telemetry import Telemetry

PATHS = ("/v1/edits", "/v1/jobs", "/v1/images/edits")

REFUSED = 'sdedit_edits_total{outcome="refused"}'
ANSWERED = 'sdedit_answers_total{status="503"}'


@contextmanager
def full_server(key: str | None = None) -> Iterator[Served]:
    """A server where no edit may wait for longer than 1 s; half of an edit of 25 s has arrived, and stays so."""
    limits = Limits(wait_seconds=1, receive_seconds=600, grace_seconds=5)
    with serving({"earth": stub_editor(fade)}, limits, seconds=1.0, key=key) as served, connect(served) as client:
        extra = f"X-API-Key: {key}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        client.sendall(edit_bytes(served.port, b"--b\r\nabcde", extra=extra)[:-5])
        wait_for(lambda: served.get("/readyz").status_code == 503)
        yield served


@pytest.fixture(scope="module")
def full() -> Iterator[Served]:
    with full_server() as served:
        yield served


def edit_bytes(port: int, body: bytes = b"", *, path: str = "/v1/edits", extra: str = "") -> bytes:
    """A request for an edit, of the plainest kind without `extra` header fields."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def connect(served: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", served.port), timeout=WAIT)


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, header fields and body of the next answer; the connection stays as it is."""
    file = client.makefile("rb", buffering=0)
    status = int(file.readline().split()[1])
    headers = {}
    while (line := file.readline().decode().strip()) != "":
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return status, headers, file.read(int(headers["content-length"])) or b""


def asked(served: Served, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """The answer to these bytes on a connection of their own."""
    with connect(served) as client:
        client.sendall(data)
        return read_answer(client)


@pytest.mark.parametrize("path", PATHS)
def test_the_answer_is_the_applications(path: str, full: Served) -> None:
    before = full.metric(REFUSED), full.metric(ANSWERED)
    answers = [
        asked(full, edit_bytes(full.port, b"body", path=path, extra=extra))
        for extra in ("", "X-Twice: 1\r\nX-Twice: 1\r\n")
    ]
    assert [headers.pop("connection", "") for _, headers, _ in answers] == ["close", ""]
    for _, headers, _ in answers:
        assert headers.pop("date")
    assert answers[0] == answers[1]
    status, headers, body = answers[0]
    assert (status, headers["retry-after"]) == (503, "12")
    assert b"an edit would wait about 12 s, above 1 s" in body
    assert (full.metric(REFUSED), full.metric(ANSWERED)) == (before[0] + 2, before[1] + 2)


def test_nothing_but_edits_is_refused(full: Served) -> None:
    looked_at = {"/healthz": 200, "/readyz": 503, "/metrics": 200, "/v1/models": 200, "/v1/jobs/a": 404}
    for path, status in looked_at.items():
        assert full.get(path).status_code == status
    assert requests.post(f"{full.url}/sdapi/v1/interrupt", timeout=WAIT).status_code == 200


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ("", 401),
        ("X-API-Key: wrong\r\n", 401),
        ("X-API-Key: secret\r\nOrigin: https://evil.example\r\n", 403),
        ("X-API-Key: secret\r\nSec-Fetch-Site: cross-site\r\n", 403),
        ("X-API-Key: secret\r\n", 503),
        ("Authorization: Bearer secret\r\n", 503),
    ],
)
def test_who_may_not_ask_does_not_learn_that_it_is_full(extra: str, status: int, locked: Served) -> None:
    assert asked(locked, edit_bytes(locked.port, extra=extra))[0] == status


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with full_server("secret") as served:
        yield served


def test_another_host_is_refused_as_such(full: Served) -> None:
    head = b"POST /v1/edits HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\n\r\n"
    assert asked(full, head)[0] == 403


@pytest.mark.parametrize("size", [1 << 20, 8 << 20])
def test_a_client_that_still_sends_gets_its_answer(size: int, full: Served) -> None:
    data = edit_bytes(full.port, bytes(size))
    with connect(full) as client:  # sends all before it reads
        client.sendall(data)
        assert read_answer(client)[0] == 503
        assert client.recv(1) == b""
    with connect(full) as client:  # reads when it has sent a part
        client.sendall(data[:1000])
        assert read_answer(client)[0] == 503
        client.sendall(data[1000:])
        assert client.recv(1) == b""


def test_a_connection_that_is_kept_is_answered_in_order(full: Served) -> None:
    look = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{full.port}\r\n\r\n".encode()
    edit = edit_bytes(full.port, b"body")
    with connect(full) as client:  # one after another
        client.sendall(look)
        assert read_answer(client)[0] == 200
        client.sendall(edit)
        assert read_answer(client)[0] == 503
        assert client.recv(1) == b""
    with connect(full) as client:  # both at once
        client.sendall(look + edit + look)
        assert [read_answer(client)[0] for _ in range(3)] == [200, 503, 200]
    with connect(full) as client:  # a head in two parts
        client.sendall(edit[:30])
        assert asked(full, look)[0] == 200  # the first part was read before this request
        client.sendall(edit[30:])
        assert read_answer(client)[0] == 503


def test_requests_of_one_turn_count_before_the_application_sees_them() -> None:
    """Three edits of 25 s are taken where one may wait for 60 s: the waits are 0, 25, 50 and 75 s."""
    backend: Any = SimpleNamespace(wait=0.0, typical=25.0)
    edit, half = edit_bytes(1, b"body"), edit_bytes(1, b"body")[:-2]

    async def refused(data: bytes, times: int) -> list[bool]:
        desk = Desk(backend, Limits(wait_seconds=60), Telemetry())
        shedder = Shedder(desk, Access(["127.0.0.1"], None))
        first = [shedder.refuse(data) is not None for _ in range(times)]
        await asyncio.sleep(0)
        return [*first, shedder.refuse(data) is not None]

    assert asyncio.run(refused(edit, 5)) == [False, False, False, True, True, False]
    assert asyncio.run(refused(half, 6)) == [False] * 5 + [True, False]


NAMES = ["Host", "content-length", "Content-Length", "Transfer-Encoding", "expect", "X-a", "x_b", "a b", ""]
VALUES = ["", "4", "04", "+4", "4, 4", "4,5", "9" * 30, "chunked", " a \t", "a\rb", "a\nb", "a\x00", "\u00e9"]
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.sampled_from([":", ": ", " : ", ""]),
        st.sampled_from(VALUES) | st.text(st.characters(codec="latin-1"), max_size=4),
    ),
    max_size=4,
)
LINES = st.sampled_from([("\r\n", "1.1"), ("\n", "1.1"), ("\r\n", "1.0")])


@given(FIELDS, st.sampled_from(["4", "04", *VALUES]), st.sampled_from(PATHS), LINES, st.binary(max_size=6))
def test_a_head_that_is_read_here_is_what_the_parser_reads(
    fields: list[tuple[str, str, str]], length: str, path: str, line: tuple[str, str], body: bytes
) -> None:
    newline, version = line
    lines = [
        f"POST {path} HTTP/{version}",
        "Host: a",
        f"Content-Length: {length}",
        *("".join(field) for field in fields),
        "",
        "",
    ]
    data = newline.join(lines).encode("latin-1") + body
    head = read_head(data)
    if head is None:
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target.decode()) == (b"POST", head.path)
    assert {name.decode(): value.decode() for name, value in request.headers} == head.headers
    assert head.here == min(head.body, len(body))
    received = io.BytesIO()
    while isinstance(event := parser.next_event(), h11.Data):
        received.write(event.data)
    assert received.getvalue() == body[: head.body]
    assert (event is h11.NEED_DATA) == (head.here < head.body)


def test_plain_heads_are_read() -> None:
    head = read_head(edit_bytes(1, b"body", extra="Accept:image/png \r\nX-Empty:\r\n")[:-1])
    assert head is not None
    assert (head.path, head.body, head.here) == ("/v1/edits", 4, 3)
    assert head.headers == {"host": "127.0.0.1:1", "content-length": "4", "accept": "image/png", "x-empty": ""}


@pytest.mark.parametrize(
    "data",
    [
        edit_bytes(1).replace(b"POST", b"GET"),
        edit_bytes(1).replace(b"1.1", b"1.0"),
        edit_bytes(1, path="/v1/edits/"),
        edit_bytes(1, path="/v1/edits?a=1"),
        edit_bytes(1, path="/sdapi/v1/img2img"),
        edit_bytes(1)[:-1],
        edit_bytes(1, extra="Transfer-Encoding: chunked\r\n"),
        edit_bytes(1, extra="Expect: 100-continue\r\n"),
        edit_bytes(1, extra="content-length: 0\r\n"),
        edit_bytes(1).replace(b"Length: 0", b"Length: -1"),
        edit_bytes(1).replace(b"Length: 0", b"Length: " + b"1" * 5000),
        edit_bytes(1).replace(b"Length: 0", b"Type: a/b"),
        edit_bytes(1, extra=" folded\r\n"),
        b"",
    ],
)
def test_all_other_requests_go_to_the_parser(data: bytes) -> None:
    assert read_head(data) is None
