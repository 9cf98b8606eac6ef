"""Many edits for long, with faults among them: nothing may be lost or mixed up, and memory must stay flat."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .client import STREAM, Connection, edit, multipart, request
from .faults import black_png
from .load import Load, run_load
from .process import ServerProcess

FAULTS_PER_SECOND = 4.0


@dataclass(frozen=True)
class Soak:
    """A run. faults: sent beside the load. slope: growth of resident memory in MiB a minute, over the second half."""

    load: Load
    faults: int
    memory: float
    slope: float


async def run_soak(
    server: ServerProcess, guide: bytes, expected: Sequence[bytes], rate: float, seconds: float, steps: int
) -> Soak:
    """Load at `rate` edits a second, with disconnects, bombs and malformed forms beside it."""
    samples: list[tuple[float, float]] = []
    begun = time.perf_counter()
    sampling = asyncio.create_task(sample(server, begun, samples))
    hurting = asyncio.create_task(hurt(server.port, guide, seconds))
    try:
        load = await run_load(server.port, guide, expected, rate, seconds, steps)
        faults = await hurting
    finally:
        sampling.cancel()
        hurting.cancel()
    return Soak(load, faults, server.memory(), slope_of([(t, mib) for t, mib in samples if t >= seconds / 2]))


def slope_of(samples: Sequence[tuple[float, float]]) -> float:
    """Growth in MiB a minute of samples (seconds, MiB); NaN of fewer than 3."""
    if len(samples) < 3:
        return float("nan")
    return 60 * float(np.polyfit([t for t, _ in samples], [mib for _, mib in samples], 1)[0])


async def sample(server: ServerProcess, begun: float, samples: list[tuple[float, float]]) -> None:
    """Note the memory twice a second, until cancelled."""
    while True:
        samples.append((time.perf_counter() - begun, server.memory()))
        await asyncio.sleep(0.5)


async def hurt(port: int, guide: bytes, seconds: float) -> int:
    """Send faults for so long; returns how many."""
    chance, large, count = random.Random(0), black_png(20_000), 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        kind = chance.randrange(4)
        if kind == 0:
            await edit(port, large)
        elif kind == 1:
            head, body = multipart({"guide": guide[: chance.randrange(len(guide))]}, {"steps": chance.randrange(5)})
            await request(port, "POST", "/v1/edits", head, body[: chance.randrange(1, len(body))])
        else:
            await leave(port, guide, STREAM if kind == 2 else "image/png", chance.random() / 5)
        count += 1
        await asyncio.sleep(1 / FAULTS_PER_SECOND)
    return count


async def leave(port: int, guide: bytes, accept: str, seconds: float) -> None:
    """Begin an edit and go away."""
    head, body = multipart({"guide": guide}, {"steps": 100, "t0": 0.9})
    connection = await Connection.open(port)
    await connection.send("POST", "/v1/edits", {**head, "accept": accept}, body)
    await asyncio.sleep(seconds)
    connection.abort()
