"""Load in the open model: requests begin at fixed times, whether or not the ones before have been answered.

A latency counts from the time at which its request was meant to begin. So a server that falls behind cannot hide it, as
it can from clients that wait for one answer before they send the next request ("coordinated omission").
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sdedit.runtime import Editor

from .client import STREAM, Connection, edit, multipart

SEEDS = 4
"""Different edits among the requests; each has one right result."""


@dataclass
class Load:
    """Answers of a run.

    latencies: seconds of those with status 200. refusals: seconds of those with 503. wrong: answers of other bytes.
    """

    rate: float
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    wrong: int = 0

    @property
    def lost(self) -> int:
        """Requests without an answer, or with an unexpected one."""
        return sum(count for status, count in self.statuses.items() if status not in (200, 503))


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share lies; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def expected_results(editor: Editor, guide: bytes, steps: int) -> list[bytes]:
    """The right answers, by seed."""
    return [editor.edit(guide, steps=steps, seed=seed).images[0].to_bytes() for seed in range(SEEDS)]


def editor_capacity(editor: Editor, guide: bytes, steps: int, seconds: float) -> float:
    """Edits a second of the Editor alone, with two jobs in flight for each slot."""
    jobs = [editor.submit(guide, steps=steps, seed=0) for _ in range(2 * editor.device.slots)]
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        jobs.pop(0).result(60).images[0].to_bytes()
        jobs.append(editor.submit(guide, steps=steps, seed=0))
        done += 1
    rate = done / (time.perf_counter() - begun)
    for job in jobs:
        job.cancel()
    return rate


async def run_load(port: int, guide: bytes, expected: Sequence[bytes], rate: float, seconds: float, steps: int) -> Load:
    """Send `rate` edits a second and compare every answer."""
    load = Load(rate, seconds)

    async def one(number: int, due: float) -> None:
        answer = await edit(port, guide, steps=steps, seed=number % SEEDS)
        took = time.perf_counter() - due
        load.statuses[answer.status] += 1
        if answer.status == 200:
            load.latencies.append(took)
            load.wrong += answer.body != expected[number % SEEDS]
        elif answer.status == 503:
            load.refusals.append(took)

    begun, tasks = time.perf_counter(), []
    for number in range(max(1, round(rate * seconds))):
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, due)))
    await asyncio.gather(*tasks)
    return load


async def first_preview(port: int, guide: bytes, steps: int) -> float:
    """Seconds from a request to the first preview of its stream."""
    kind, body = multipart({"guide": guide}, {"steps": steps, "preview_every": 1})
    begun = time.perf_counter()
    connection = await Connection.open(port)
    try:
        await connection.send("POST", "/v1/edits", {**kind, "accept": STREAM}, body)
        await connection.read_head()
        async for chunk in connection.chunks():
            if b"partial_image" in chunk:
                return time.perf_counter() - begun
    finally:
        connection.abort()
    raise RuntimeError("the stream had no preview")
