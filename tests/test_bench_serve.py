"""The server's load generator: it counts answers, and latency from the time at which a request was meant to begin."""

import asyncio
import io
import math
import socket
from collections.abc import Iterator

import pytest
from PIL import Image
from serving import COAST, Gate, Served, fade, serving
from stubs import stub_editor

from sdedit.benchmarks.serve import burst, client, faults, load, soak
from sdedit.serve.limits import Limits


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving({"earth64": stub_editor(fade)}, Limits(receive_seconds=2.0, grace_seconds=5)) as served:
        yield served


def test_quantiles() -> None:
    assert [load.quantile([3, 1, 2], share) for share in (0, 0.5, 0.99, 1)] == [1, 2, 3, 3]
    assert math.isnan(load.quantile([], 0.5))


def test_the_slope_of_memory() -> None:
    assert soak.slope_of([(0, 100), (30, 101), (60, 102)]) == pytest.approx(2)
    assert math.isnan(soak.slope_of([(0, 1), (1, 1)]))


def test_every_answer_is_compared(served: Served) -> None:
    with stub_editor(fade) as editor:
        expected = load.expected_results(editor, COAST, steps=2)
        assert load.editor_capacity(editor, COAST, 2, 0.1) > 0
    assert len(set(expected)) == load.SEEDS
    right = asyncio.run(load.run_load(served.port, COAST, expected, rate=40, seconds=0.2, steps=2))
    assert (right.statuses, right.wrong, right.lost, len(right.latencies)) == ({200: 8}, 0, 0, 8)
    wrong = asyncio.run(load.run_load(served.port, COAST, [*expected[1:], b""], rate=40, seconds=0.2, steps=2))
    assert wrong.wrong == 8


def test_refusals_are_not_lost() -> None:
    gate = Gate()
    with serving({"earth64": stub_editor(gate)}, Limits(wait_seconds=1, grace_seconds=5), seconds=1.0) as served:

        async def run() -> load.Load:
            running = asyncio.create_task(load.run_load(served.port, COAST, [b""] * 4, 100, 0.05, 3))
            await asyncio.sleep(1)
            gate.open()
            return await running

        result = asyncio.run(run())
    assert (result.statuses, result.lost, result.wrong) == ({200: 1, 503: 4}, 0, 1)
    assert len(result.refusals) == 4
    assert min(result.latencies) > 0.9  # the edit began at once and waited for the gate


def test_a_server_that_is_gone_loses_answers() -> None:
    with serving({"earth64": stub_editor(fade)}) as served:
        port = served.port
    result = asyncio.run(load.run_load(port, COAST, [b""] * 4, 10, 0.1, 1))
    assert (result.statuses, result.lost) == ({0: 1}, 1)


def test_the_client_reads_streams_and_metrics(served: Served) -> None:
    assert asyncio.run(client.metric(served.port, "sdedit_edits_in_flight")) == 0
    answer = asyncio.run(client.edit(served.port, COAST, {"accept": client.STREAM}, steps=2))
    assert answer.status == 200
    assert b"image_edit.completed" in answer.body


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", client.Answer(200, {"content-length": "3"}, b"abc")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", client.Answer(0)),
        (b"HTTP/1.1 200 OK\r\ncontent-le", client.Answer(0)),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", client.Answer(0)),
        (b"", client.Answer(0)),
    ],
)
def test_an_answer_that_is_cut_is_lost(sent: bytes, expected: client.Answer) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async def run() -> tuple[client.Answer, client.Answer]:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            (one,) = await asyncio.to_thread(burst.burst, port, [client.head_bytes(port, "GET", "/", {})])
            return await client.request(port, "GET", "/"), await client.read_answer(one.received)

    assert asyncio.run(run()) == (expected, expected)


def test_a_burst_gets_every_answer(served: Served) -> None:
    kind, body = client.multipart({"guide": COAST}, {"steps": 2})
    data = client.request_bytes(served.port, "POST", "/v1/edits", kind, body)
    expected = asyncio.run(client.edit(served.port, COAST, steps=2))
    for one in burst.burst(served.port, [data] * 5):
        answer = asyncio.run(client.read_answer(one.received))
        assert (answer.status, answer.body) == (200, expected.body)
        assert one.seconds > 0


def test_a_burst_at_a_server_that_is_gone_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for one in burst.burst(port, [b"ask"] * 2):
        assert asyncio.run(client.read_answer(one.received)) == client.Answer(0)


def test_the_bomb_is_a_png_of_that_size(served: Served) -> None:
    image = Image.open(io.BytesIO(faults.black_png(300)))
    assert (image.size, image.getextrema()) == ((300, 300), (0, 0))


def test_faults_of_a_soak_are_sent(served: Served) -> None:
    before = served.metric("sdedit_edits_in_flight")
    asyncio.run(soak.leave(served.port, COAST, client.STREAM, 0.0))
    assert asyncio.run(soak.hurt(served.port, COAST, 0.3)) >= 1
    served.until("sdedit_edits_in_flight", before)
