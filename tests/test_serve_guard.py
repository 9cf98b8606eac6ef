"""The server's guard: hosts, origins, the key, limits of what a request sends, and hostile bodies."""

import io
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
from serving import COAST, WAIT, Served, fade, raw_edit, serving
from stubs import stub_editor

from sdedit.benchmarks.serve.faults import black_png
from sdedit.serve.guard import host_name, is_loopback, served_hosts
from sdedit.serve.limits import Limits

SMALL = Limits(body_bytes=200_000, pixels=1000 * 1000, receive_seconds=1.0, grace_seconds=5)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving({"earth": stub_editor(fade)}, SMALL) as served:
        yield served


@pytest.fixture(scope="module")
def locked() -> Iterator[Served]:
    with serving({"earth": stub_editor(fade)}, key="secret") as served:
        yield served


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example:80"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
    ],
)
def test_other_hosts_and_other_sites_pages_are_refused(headers: dict[str, str], status: int, served: Served) -> None:
    answer = served.edit(guide=COAST, steps=1, headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert served.get("/v1/models", headers=headers).status_code == status
    assert served.get("/healthz", headers=headers).status_code == 200


def test_the_servers_own_page_may_use_it(served: Served) -> None:
    assert served.edit(guide=COAST, steps=1, headers={"origin": served.url}).status_code == 200


def test_no_answer_may_be_used_by_other_sites(served: Served) -> None:
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    preflight = requests.options(f"{served.url}/v1/edits", headers=asked, timeout=WAIT)
    assert preflight.status_code == 403
    for path in ("/v1/models", "/nothing"):
        headers = served.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("headers", "auth", "status"),
    [
        ({}, None, 401),
        ({"authorization": "Bearer wrong"}, None, 401),
        ({"authorization": "Basic %%%"}, None, 401),
        ({"authorization": "Bearer secret"}, None, 200),
        ({"authorization": "bearer secret"}, None, 200),
        ({"x-api-key": "secret"}, None, 200),
        ({}, ("anyone", "secret"), 200),
        ({}, ("secret", "anyone"), 401),
    ],
)
def test_a_key_is_needed_where_there_is_one(
    headers: dict[str, str], auth: tuple[str, str] | None, status: int, locked: Served
) -> None:
    for path in ("/v1/models", "/metrics", "/openapi.json"):
        answer = locked.get(path, headers=headers, auth=auth)
        assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    assert locked.get("/readyz", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("::1", True), ("127.9.9.9", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_hosts_are_compared_without_their_ports() -> None:
    names = ("a:80", "A", "[::1]:8765", "[::1]", "a:", ":80")
    assert [host_name(name) for name in names] == ["a", "a", "[::1]", "[::1]", "a", ":80"]
    assert {"[fe80::1]", "paint.example"} <= served_hosts("fe80::1", ["paint.example"])


@pytest.mark.parametrize("field", ["guide", "mask"])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(field: str, served: Served) -> None:
    answer = served.edit(**{"guide": COAST, field: black_png(20_000)})
    assert answer.status_code == 413
    assert f"{field} has 20000x20000 pixels" in answer.json()["error"]["message"]


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    assert served.edit(guide=bytes(300_000)).status_code == 413
    before = served.metric('sdedit_answers_total{status="413"}') - 1
    chunks = (PART if number == 0 else bytes(10_000) for number in range(100))
    with suppress(requests.ConnectionError):  # it still sent when the server had answered and closed
        answer = requests.post(f"{served.url}/v1/edits", data=chunks, headers=MULTIPART, timeout=WAIT)
        assert answer.status_code == 413
    assert served.metric('sdedit_answers_total{status="413"}') == before + 2
    with socket.create_connection(("127.0.0.1", served.port), timeout=WAIT) as client:
        head = f"POST /v1/edits HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\ncontent-length: 10000000000\r\n"
        client.sendall(f"{head}content-type: {MULTIPART['content-type']}\r\n\r\n".encode())
        answer = client.makefile("rb").read()  # until it is closed
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"10000000000 bytes: at most 200000" in answer


MULTIPART = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\ncontent-disposition: form-data; name="guide"; filename="a"\r\n\r\nabc'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", PART),
        ("multipart/form-data; boundary=b", os.urandom(4096)),
        ("multipart/form-data; boundary=b", b"--b\r\nfoo: bar\r\n\r\nabc\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b; charset=utf-16", PART + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=b; charset=zlib", PART + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=" + "b" * 5000, PART + b"\r\n--b--\r\n"),
        ("multipart/form-data; boundary=\u00e9".encode().decode("latin-1"), PART),
        ("application/json", b"{}"),
        ("application/x-www-form-urlencoded", b"guide=abc"),
        ("application/x-www-form-urlencoded", b"t0=%FF&t0=1"),
        ("", b""),
    ],
)
def test_a_malformed_body_is_a_mistake(kind: str, body: bytes, served: Served, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        answer = requests.post(f"{served.url}/v1/edits", data=body, headers={"content-type": kind}, timeout=WAIT)
    assert answer.status_code in (400, 422), answer.text
    assert "\n" not in answer.json()["error"]["message"]
    assert "Traceback" not in answer.text + caplog.text


@pytest.mark.parametrize(
    "fields",
    [
        {f"f{number}": 1 for number in range(50)},
        {"t0": "1" * 70_000},
        {"guide": COAST, "mask": COAST, "base": COAST, "a": COAST, "b": COAST},
        {"guide": COAST, "t0": "\udcff"},
        {"guide": COAST, "seed": "9" * 5000},
        {"guide": COAST, "model": "../../etc/passwd"},
        {"guide": COAST, "model": "a\nb"},
    ],
)
def test_a_hostile_form_is_a_mistake(fields: dict[str, Any], served: Served) -> None:
    sent = {name: value.encode("utf-8", "surrogateescape") if name == "t0" and len(value) == 1 else value
            for name, value in fields.items()}  # fmt: skip
    answer = served.edit(**sent)
    assert 400 <= answer.status_code < 500
    assert "\n" not in answer.json()["error"]["message"]


def test_names_of_files_are_not_looked_at(served: Served) -> None:
    for name in ("../../etc/passwd", "/dev/zero", "a\x00b", ""):
        files = {"guide": (name or "x", io.BytesIO(COAST))}
        answer = requests.post(f"{served.url}/v1/edits", data={"steps": 1}, files=files, timeout=WAIT)
        assert answer.status_code == 200, name


HALF = b"POST /v1/edits HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data; boundary=b\r\n"


@pytest.mark.parametrize("sent", [b"", HALF, HALF + b"content-length: 99\r\n\r\n--b"])
def test_a_request_that_does_not_arrive_is_closed(sent: bytes, served: Served) -> None:
    before = served.metric("sdedit_slow_connections_total")
    with socket.create_connection(("127.0.0.1", served.port), timeout=WAIT) as client:
        client.sendall(sent)
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    assert served.metric("sdedit_slow_connections_total") == before + 1


def test_a_client_that_takes_no_answer_is_closed() -> None:
    """The answer is larger than what the system buffers."""
    limits = Limits(send_seconds=0.5, grace_seconds=5)
    noise = os.urandom(3 * 1500 * 1500)
    with serving({"earth": stub_editor(fade)}, limits) as served:
        from PIL import Image

        file = io.BytesIO()
        Image.frombytes("RGB", (1500, 1500), noise).save(file, "PNG", compress_level=0)
        mask = io.BytesIO()
        square = Image.new("L", (1500, 1500))
        square.paste(255, (0, 0, 64, 64))
        square.save(mask, "PNG")
        client = raw_edit(served.port, "image/png", guide=file.getvalue(), mask=mask.getvalue(), steps=1)
        deadline = time.monotonic() + WAIT
        while served.metric("sdedit_slow_connections_total") < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        client.close()


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    """Uploads above 1 MiB go to a temporary file."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("starlette.formparsers.SpooledTemporaryFile.write", full, raising=False)
        answer = served.edit(guide=COAST, steps=1)
    assert answer.status_code == 507
    assert "disk is full" in answer.json()["error"]["message"]
    assert served.edit(guide=COAST, steps=1).status_code == 200
