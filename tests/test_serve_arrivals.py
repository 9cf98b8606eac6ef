"""Requests that come all at once: what the server would refuse, it does not read."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import requests
from serving import COAST, WAIT, Gate, Served, raw_edit, serving, wait_for
from stubs import stub_editor

from sdedit.serve import native
from sdedit.serve.limits import Limits

TAKEN = 3
"""Edits of 25 s that are taken where an edit may wait for 60 s: the waits are 0, 25, 50 and 75 s."""

BURST = 60

STEPS = 25


@contextmanager
def full_after_three() -> Iterator[tuple[Served, Gate]]:
    """A server that takes TAKEN edits of the default steps until the gate opens."""
    gate = Gate()
    limits = Limits(wait_seconds=60, grace_seconds=5)
    with serving({"earth": stub_editor(gate)}, limits, seconds=1.0) as served:
        try:
            yield served, gate
        finally:
            gate.open()


def status_of(client: socket.socket) -> int:
    """The status of the answer that a socket gets."""
    return int(client.makefile("rb").readline().split()[1])


@pytest.fixture
def forms_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Has an entry for each form that was read."""
    read = native.read_form
    forms: list[int] = []

    async def counted(request: requests.Request, limits: Limits) -> object:
        form = await read(request, limits)  # type: ignore[arg-type]
        forms.append(1)
        return form

    monkeypatch.setattr(native, "read_form", counted)
    return forms


def test_a_burst_is_refused_unread(forms_read: list[int]) -> None:
    with full_after_three() as (served, gate), ExitStack() as clients:
        sockets = [raw_edit(served.port, "", guide=COAST, seed=seed, steps=STEPS) for seed in range(BURST)]
        for client in sockets:
            clients.enter_context(client)
        wait_for(lambda: served.metric('sdedit_edits_total{outcome="refused"}') == BURST - TAKEN)
        assert served.metric("sdedit_edits_in_flight") == TAKEN
        assert len(forms_read) == TAKEN
        gate.open()
        statuses = [status_of(client) for client in sockets]
    assert sorted(statuses) == [200] * TAKEN + [503] * (BURST - TAKEN)


def half_edit(port: int, share: float) -> tuple[socket.socket, bytes]:
    """A socket that has sent that share of an edit's body, and the rest."""
    url = f"http://127.0.0.1:{port}/v1/edits"
    request = requests.Request("POST", url, data={"steps": str(STEPS)}, files={"guide": COAST}).prepare()
    head = f"POST /v1/edits HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    assert isinstance(request.body, bytes)
    sent = int(share * len(request.body))
    client = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    client.sendall(head.encode() + b"\r\n" + request.body[:sent])
    return client, request.body[sent:]


def test_a_body_counts_as_far_as_it_is_here() -> None:
    with full_after_three() as (served, _), ExitStack() as clients:
        for share, wait in ((0.5, 12.5), (0.5, 25.0), (0.02, 25.5), (0.02, 26.0)):
            clients.enter_context(half_edit(served.port, share)[0])
            wait_for(lambda wait=wait: abs(served.metric("sdedit_wait_seconds") - wait) < 0.1)


def test_slow_clients_take_no_room_from_others() -> None:
    with full_after_three() as (served, gate), ExitStack() as clients:
        for _ in range(50):
            clients.enter_context(half_edit(served.port, 0.001)[0])
        gate.open()
        assert served.edit(guide=COAST, steps=1).status_code == 200


def test_the_rest_of_a_body_is_not_read_when_the_server_is_full(forms_read: list[int]) -> None:
    with full_after_three() as (served, _), ExitStack() as clients:
        client, rest = half_edit(served.port, 0.1)
        clients.enter_context(client)
        wait_for(lambda: served.metric("sdedit_wait_seconds") > 0)
        for seed in range(TAKEN):
            clients.enter_context(raw_edit(served.port, "", guide=COAST, seed=seed, steps=STEPS))
        wait_for(lambda: served.metric("sdedit_edits_in_flight") == TAKEN)
        client.sendall(rest[: len(rest) // 2])
        assert status_of(client) == 503
        assert len(forms_read) == TAKEN


def test_a_client_that_goes_while_it_sends_is_forgotten() -> None:
    with full_after_three() as (served, _):
        half_edit(served.port, 0.5)[0].close()
        wait_for(lambda: served.metric('sdedit_answers_total{status="499"}') == 1)
        assert served.metric("sdedit_wait_seconds") == 0
