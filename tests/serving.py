"""A server in this process, for tests of serve/, whose network is a Python function."""

import asyncio
import faulthandler
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import requests

from sdedit.runtime import Editor
from sdedit.serve.app import make_app
from sdedit.serve.backend import Backend
from sdedit.serve.guard import served_hosts
from sdedit.serve.limits import Limits
from sdedit.serve.models import Model
from sdedit.serve.server import DrainingServer, bind, make_server
from sdedit.serve.spreading import SpreadingBackend
from sdedit.serve.telemetry import Telemetry

ROOT = Path(__file__).parent.parent
COAST = (ROOT / "examples" / "coast.png").read_bytes()
LAKE, LAKE_MASK = ((ROOT / "examples" / name).read_bytes() for name in ("lake.png", "lake-mask.png"))

WAIT = 30.0
"""Seconds after which a test that hangs fails instead."""


class Gate:
    """A network that waits: each evaluation takes one permit. calls: evaluations begun."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, x: np.ndarray, time: float) -> np.ndarray:
        self.calls += 1
        assert self.permits.acquire(timeout=WAIT)
        return np.float32(0.1) * x

    def open(self) -> None:
        self.permits.release(10**6)


def fade(x: np.ndarray, time: float) -> np.ndarray:
    """A network that takes no time."""
    return np.float32(0.1) * x


def slowly(x: np.ndarray, _: float) -> np.ndarray:
    """The same network, slow enough for a client to see its steps."""
    time.sleep(0.01)
    return np.float32(0.1) * x


def very_slowly(x: np.ndarray, _: float) -> np.ndarray:
    """The same network, too slow for 250 steps to end before a browser does something, however busy the machine is."""
    time.sleep(0.1)
    return np.float32(0.1) * x


@dataclass
class Served:
    """A running server and a client of it."""

    port: int
    server: DrainingServer
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str, **options: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=WAIT, **options)

    def edit(
        self, *, path: str = "/v1/edits", accept: str = "", headers: Mapping[str, str] | None = None, **fields: Any
    ) -> requests.Response:
        """POST an edit: bytes are files, everything else is a text."""
        files = {name: (name, value) for name, value in fields.items() if isinstance(value, bytes)}
        texts = {name: str(value) for name, value in fields.items() if not isinstance(value, bytes)}
        wanted = {**(headers or {}), **({"accept": accept} if accept else {})}
        stream = accept == "text/event-stream"
        return requests.post(self.url + path, data=texts, files=files, headers=wanted, timeout=WAIT, stream=stream)

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels as Prometheus writes them; 0 before it was first counted."""
        lines = [line.rpartition(" ") for line in self.get("/metrics").text.splitlines() if line[0] != "#"]
        return float(next((value for key, _, value in lines if key == name), 0))

    def until(self, name: str, value: float) -> None:
        """Wait until a metric has that value."""
        wait_for(lambda: self.metric(name) == value)

    def stop(self) -> None:
        """Send it SIGTERM, in effect, and wait for its end."""
        self.loop.call_soon_threadsafe(self.server.handle_exit, signal.SIGTERM, None)


@contextmanager
def serving(
    editors: Mapping[str, Editor],
    limits: Limits | None = None,
    *,
    others: Mapping[str, Mapping[str, Editor]] | None = None,
    key: str | None = None,
    seconds: float = 0.001,
    page: bool = False,
) -> Iterator[Served]:
    """A server of these editors, which it closes. seconds: taken as the duration of an evaluation.

    others: editors on further devices, by the device and the model.
    """
    limits = limits or Limits(grace_seconds=5)
    models = {
        device: {name: Model(name, editor, seconds) for name, editor in there.items()}
        for device, there in {"cpu": editors, **(others or {})}.items()
    }
    telemetry, ready = Telemetry(), threading.Event()

    async def open_backend() -> Backend:
        return SpreadingBackend(models, limits, telemetry)

    hosts = served_hosts("127.0.0.1", ())
    app = make_app(open_backend, limits=limits, telemetry=telemetry, hosts=hosts, key=key, page=page)
    bound = bind("127.0.0.1", 0)
    loop = asyncio.new_event_loop()
    server = make_server(app, limits, telemetry, ready.set)
    thread = threading.Thread(target=loop.run_until_complete, args=(server.serve([bound]),), daemon=True)
    thread.start()
    try:
        if not ready.wait(WAIT):
            faulthandler.dump_traceback(sys.__stderr__)
            raise AssertionError("the server has not started: stderr says where each thread is")
        served = Served(bound.getsockname()[1], server, loop, thread)
        yield served
    finally:
        loop.call_soon_threadsafe(server.handle_exit, signal.SIGTERM, None)
        thread.join(WAIT)
        assert not thread.is_alive()
        bound.close()
        loop.close()


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read_events(response: requests.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream, as they come."""
    name = ""
    for line in response.iter_lines(chunk_size=1):
        key, _, value = line.decode().partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def raw_edit(port: int, accept: str, **fields: Any) -> socket.socket:
    """A socket that has sent a whole edit, so that the test decides when the client goes."""
    files = {name: (name, value) for name, value in fields.items() if isinstance(value, bytes)}
    texts = {name: str(value) for name, value in fields.items() if not isinstance(value, bytes)}
    request = requests.Request("POST", f"http://127.0.0.1:{port}/v1/edits", data=texts, files=files).prepare()
    head = f"POST /v1/edits HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\naccept: {accept}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    client = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
    client.sendall(head.encode() + b"\r\n" + request.body)  # type: ignore[operator]
    return client
