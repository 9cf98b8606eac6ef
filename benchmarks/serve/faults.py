"""Faults, each with a figure that it must reach."""

import asyncio
import io
import os
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .burst import burst
from .client import STREAM, Answer, Connection, edit, metric, multipart, read_answer, request, request_bytes
from .load import quantile
from .process import ServerProcess, server_process

DEADLINE = 3.0
"""Seconds in which a request must arrive, at the servers of this module."""

BODY_MIB = 32
LONG = {"steps": 400, "t0": 0.9}


@dataclass(frozen=True)
class Row:
    """One fault: what was measured, the figure to reach, and whether it was reached."""

    fault: str
    measured: str
    wanted: str
    passed: bool


async def run_faults(guide: bytes) -> AsyncIterator[Row]:
    """All faults, one after another."""
    async with server_process(["--receive-within", str(DEADLINE)]) as server:
        for fault in FAULTS:
            yield await fault(server, guide)
    yield await stop_with_edits(guide, grace=60, steps=25)
    yield await stop_with_edits(guide, grace=1, steps=900)


async def disconnect_from_a_stream(server: ServerProcess, guide: bytes) -> Row:
    return await disconnect(server, guide, "a client goes in the middle of a stream", STREAM)


async def disconnect_from_a_png(server: ServerProcess, guide: bytes) -> Row:
    return await disconnect(server, guide, "a client goes while it waits for a PNG", "image/png")


async def disconnect(server: ServerProcess, guide: bytes, fault: str, accept: str) -> Row:
    """Seconds until the edit has ended, the worst of 5, against two steps of it and 50 ms."""
    kind, body = multipart({"guide": guide}, LONG)
    step = (await timed(edit(server.port, guide, steps=50)))[0] / 50
    worst = 0.0
    for _ in range(5):
        connection = await Connection.open(server.port)
        await connection.send("POST", "/v1/edits", {**kind, "accept": accept}, body)
        await until(server, 1)
        await asyncio.sleep(5 * step)
        begun = time.perf_counter()
        connection.abort()
        await until(server, 0)
        worst = max(worst, time.perf_counter() - begun)
    most = 2 * step + 0.05
    return Row(fault, f"ended after {1000 * worst:.0f} ms", f"2 steps + 50 ms: {1000 * most:.0f} ms", worst <= most)


async def slow_clients(server: ServerProcess, guide: bytes) -> Row:
    """100 heads and 50 bodies that come byte by byte, and an edit meanwhile."""
    kind, body = multipart({"guide": guide}, {"steps": 2})

    async def trickle(whole_head: bool) -> float:
        connection = await Connection.open(server.port)
        head = connection.head("POST", "/v1/edits", {**kind, "content-length": len(body)})
        begun = time.perf_counter()
        try:
            if whole_head:
                connection.writer.write(head)
            for byte in body if whole_head else head:
                connection.writer.write(bytes([byte]))
                await connection.writer.drain()
                if connection.reader.at_eof():
                    break
                await asyncio.sleep(0.1)
        except OSError:
            pass  # it was closed
        finally:
            connection.abort()
        return time.perf_counter() - begun

    clients = asyncio.gather(*(trickle(number >= 100) for number in range(150)))
    await asyncio.sleep(0.5)
    answer = await edit(server.port, guide, steps=2)
    slowest = max(await clients)
    return Row(
        "100 slow heads, 50 slow bodies",
        f"closed after {slowest:.1f} s at most; an edit meanwhile: {answer.status}",
        f"deadline + 1 s: {DEADLINE + 1:g} s; 200",
        slowest <= DEADLINE + 1 and answer.status == 200,
    )


async def declared_body(server: ServerProcess, guide: bytes) -> Row:
    """A request that says it has 10 GB."""
    connection = await Connection.open(server.port)
    kind, _ = multipart({}, {})
    begun = time.perf_counter()
    connection.writer.write(connection.head("POST", "/v1/edits", {**kind, "content-length": 10**10}))
    status = (await connection.read_head()).status
    took = time.perf_counter() - begun
    connection.abort()
    return Row("10 GB declared", f"{status} in {1000 * took:.0f} ms", "413", status == 413)


async def endless_body(server: ServerProcess, guide: bytes) -> Row:
    """Chunks without an end."""
    before = server.memory()
    server.forget_peak()
    connection = await Connection.open(server.port)
    headers = {"content-type": "multipart/form-data; boundary=b", "transfer-encoding": "chunked"}
    part = b'--b\r\ncontent-disposition: form-data; name="guide"; filename="g"\r\n\r\n'
    connection.writer.write(connection.head("POST", "/v1/edits", headers))
    status, sent = 0, 0
    reading = asyncio.ensure_future(connection.read_head())
    try:
        while not reading.done() and sent < 1 << 30:
            block = part + bytes(1 << 16) if not sent else bytes(1 << 16)
            connection.writer.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
            await connection.writer.drain()
            sent += len(block)
        status = (await asyncio.wait_for(reading, 10)).status
    except (OSError, asyncio.IncompleteReadError):
        status = reading.result().status if reading.done() and not reading.exception() else 0
    finally:
        connection.abort()
    grown = server.memory("VmHWM") - before
    closed = sent <= (BODY_MIB + 16) << 20
    return Row(
        "chunks without an end",
        f"{status or 'closed'} after {sent >> 20} MiB, memory grew by {grown:.0f} MiB at most",
        f"refused; at most {BODY_MIB} MiB",
        closed and status in (0, 413) and grown <= BODY_MIB,
    )


async def malformed_forms(server: ServerProcess, guide: bytes) -> Row:
    """Forms that are none, or hostile."""
    plain = {"content-type": "multipart/form-data; boundary=b"}
    part = b'--b\r\ncontent-disposition: form-data; name="guide"; filename="g"\r\n\r\nabc'
    cases = [
        ({"content-type": "multipart/form-data"}, b"x"),
        (plain, part),
        (plain, os.urandom(4096)),
        (plain, b"--b\r\nfoo: bar\r\n\r\nabc\r\n--b--\r\n"),
        ({"content-type": "application/json"}, b"{}"),
        multipart({}, {f"f{number}": 1 for number in range(500)}),
        multipart({}, {"guide": "/etc/passwd"}),
        multipart({}, {"t0": "1" * (1 << 20)}),
        multipart({"guide": b"hello"}, {}),
        multipart({"guide": guide}, {"t0": "nan"}),
        multipart({"guide": guide}, {"steps": 10**9}),
        multipart({"guide": guide}, {"strength": 0.5}),
    ]
    answers = [await request(server.port, "POST", "/v1/edits", head, body) for head, body in cases]
    statuses = sorted({answer.status for answer in answers})
    good = set(statuses) <= {400, 413, 422} and not any(b"Traceback" in answer.body for answer in answers)
    return Row(f"{len(cases)} malformed or hostile forms", f"statuses {statuses}", "400 or 422, no traceback", good)


def black_png(side: int) -> bytes:
    """A small PNG of side x side black pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


async def bomb(server: ServerProcess, guide: bytes) -> Row:
    """A small file of 400 million pixels."""
    data = black_png(20_000)
    before = server.memory()
    server.forget_peak()
    took, answer = await timed(edit(server.port, data))
    grown = server.memory("VmHWM") - before
    return Row(
        f"PNG of 20000x20000 pixels in {len(data) >> 10} KiB",
        f"{answer.status} in {1000 * took:.0f} ms, memory grew by {grown:.0f} MiB",
        "413 in 50 ms, no memory (8 MiB)",
        answer.status == 413 and took <= 0.05 and grown <= 8,
    )


async def large_pictures(server: ServerProcess, guide: bytes) -> Row:
    """8 pictures of 16 million pixels at once, which are accepted."""
    file = io.BytesIO()
    row = np.linspace(0, 255, 4096, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(row[None, :, None], (4096, 4096, 3)).copy()).save(file, "PNG", compress_level=1)
    server.forget_peak()
    answers = await asyncio.gather(*(edit(server.port, file.getvalue(), steps=2) for _ in range(8)))
    statuses, peak = sorted({answer.status for answer in answers}), server.memory("VmHWM")
    return Row(
        "8 pictures of 4096x4096 pixels at once",
        f"statuses {statuses}, peak {peak:.0f} MiB",
        "200, 512 MiB",
        statuses == [200] and peak <= 512,
    )


async def all_at_once(server: ServerProcess, guide: bytes) -> Row:
    """200 edits at the same moment: more than fit into the queue."""
    expected = (await edit(server.port, guide, steps=25)).body
    kind, body = multipart({"guide": guide}, {"steps": 25})
    data = request_bytes(server.port, "POST", "/v1/edits", kind, body)
    exchanges = await asyncio.to_thread(burst, server.port, [data] * 200)
    answers = [(one.seconds, await read_answer(one.received)) for one in exchanges]
    good = [answer for _, answer in answers if answer.status == 200]
    refused = [took for took, answer in answers if answer.status == 503 and "retry-after" in answer.headers]
    late = quantile(refused, 0.99)
    wrong = sum(answer.body != expected for answer in good)
    lost = len(answers) - len(good) - len(refused)
    return Row(
        "200 at once",
        f"{len(good)} x 200, {len(refused)} x 503 (p99 {1000 * late:.0f} ms), {lost} lost, {wrong} wrong",
        "a refusal in 100 ms (p99), none lost or wrong",
        not wrong and not lost and (not refused or late <= 0.1),
    )


async def stop_with_edits(guide: bytes, grace: float, steps: int) -> Row:
    """SIGTERM with 4 edits and a stream in flight."""
    async with server_process(["--grace", str(grace), "--max-wait", "1e6"]) as server:
        fields: dict[str, Any] = {"steps": steps, "t0": 0.95}
        waiting = [asyncio.create_task(edit(server.port, guide, **fields)) for _ in range(4)]
        stream = asyncio.create_task(edit(server.port, guide, {"accept": STREAM}, **fields))
        await until(server, 5)
        server.terminate()
        answers = [*await asyncio.gather(*waiting)]
        last = (await stream).body.rpartition(b"event: ")[2].split(b"\n")[0].decode()
        code = await server.ended()
    statuses = sorted({answer.status for answer in answers})
    enough = grace > 10
    return Row(
        f"SIGTERM with 5 edits, {'enough' if enough else 'too short a'} grace",
        f"statuses {statuses}, the stream ends with {last}, exit code {code}",
        "200, completed, 0" if enough else "503, error, 0: none cut",
        (statuses, last, code) == (([200], "image_edit.completed", 0) if enough else ([503], "error", 0)),
    )


FAULTS: tuple[Callable[[ServerProcess, bytes], Awaitable[Row]], ...] = (
    large_pictures,  # before long edits, after which the server expects long ones and takes fewer at once
    disconnect_from_a_stream,
    disconnect_from_a_png,
    slow_clients,
    declared_body,
    endless_body,
    malformed_forms,
    bomb,
    all_at_once,
)


async def until(server: ServerProcess, edits: int) -> None:
    """Wait until so many edits are in flight."""
    async with asyncio.timeout(60):
        while await metric(server.port, "sdedit_edits_in_flight") != edits:
            await asyncio.sleep(0.002)


async def timed(asked: Awaitable[Answer]) -> tuple[float, Answer]:
    """Seconds that an answer took, and the answer."""
    begun = time.perf_counter()
    answer = await asked
    return time.perf_counter() - begun, answer
