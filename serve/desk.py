"""The desk: every edit of the server passes it, is followed from it, and can be cancelled at it."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request

from .arrivals import Arrival
from .backend import Backend
from .limits import Limits
from .problems import Problem, check_wait, overloaded, problem_of
from .telemetry import Telemetry
from .wire import EditRequest, Finished, Step

QUIET_SECONDS = 15.0
"""A stream that has no news for so long says so, for gateways that close silent connections."""


class Running:
    """An edit that was taken, until its last follower has gone. Only the event loop's thread uses it.

    id: a name that nobody can guess. created: seconds since the epoch. newest: its newest step, None until it is taken.
    preview: its newest step with a preview.
    """

    def __init__(self, backend: Backend, request: EditRequest, begins: Callable[[], None] = lambda: None) -> None:
        """begins: called just before the backend takes the edit or refuses it."""
        self.id = secrets.token_urlsafe(16)
        self.created = time.time()
        self.newest: Step | None = None
        self.preview: Step | None = None
        self._news = asyncio.Event()
        self._why: Problem | None = None
        self._problem: Problem | None = None
        self.task = asyncio.get_running_loop().create_task(self._edit(backend, request, begins))
        self.task.add_done_callback(lambda _: self._news.set())

    @property
    def done(self) -> bool:
        """Whether it has ended, however it did."""
        return self.task.done()

    @property
    def problem(self) -> Problem | None:
        """Why it failed or was cancelled; None while it runs, and for a result."""
        if self._problem is None and self.task.done():
            if self.task.cancelled():
                self._problem = self._why or Problem(409, "the edit was cancelled", "cancelled")
            elif (error := self.task.exception()) is not None:
                self._problem = problem_of(error)  # once: it may write to the log
        return self._problem

    def tell(self, step: Step) -> None:
        """Take news from the backend."""
        self.newest = step
        if step.preview is not None:
            self.preview = step
        self._news.set()

    def cancel(self, why: Problem) -> None:
        """End it at the next step; those who follow it get `why`."""
        if not self.task.done():
            self._why = self._why or why
            self.task.cancel()

    async def started(self) -> None:
        """Return when the edit has been taken. Raises Problem if it was refused."""
        await self._next_news()
        if self.problem is not None:
            raise self.problem

    async def result(self) -> Finished:
        """Wait for the end. Raises Problem."""
        await asyncio.wait([self.task])
        if self.problem is not None:
            raise self.problem
        return self.task.result()

    async def steps(self) -> AsyncIterator[Step | None]:
        """The newest preview and step each time that the caller is ready, until the end. None: no news for a while.

        There is one follower at most.
        """
        last = 0
        while not self.task.done():
            if not await self._next_news():
                yield None
                continue
            self._news.clear()
            for step in (self.preview, self.newest):
                if step is not None and step.step > last:
                    last = step.step
                    yield step

    async def _edit(self, backend: Backend, request: EditRequest, begins: Callable[[], None]) -> Finished:
        begins()
        return await backend.edit(request, self.tell)

    async def _next_news(self) -> bool:
        """Whether there are news within QUIET_SECONDS; waits for the first without a limit."""
        limit = None if self.newest is None else QUIET_SECONDS
        try:
            await asyncio.wait_for(self._news.wait(), limit)
        except TimeoutError:
            return False
        return True


class Desk:
    """Takes edits, unless the server is ending, and knows those in flight."""

    def __init__(self, backend: Backend, limits: Limits, telemetry: Telemetry) -> None:
        self.backend = backend
        self.limits = limits
        self.telemetry = telemetry
        self.decoders = asyncio.Semaphore(1)  # for doors that decode pictures before the edit
        self.draining = False
        self._running: set[Running] = set()
        self._sessions: dict[str, Running] = {}
        self._arrivals: set[Arrival] = set()
        telemetry.watch(lambda: len(self._running), lambda: self.wait)

    @property
    def wait(self) -> float:
        """Seconds that a new edit would wait, about: behind those in flight and those whose requests are being read."""
        return self._wait(None)

    @contextmanager
    def arriving(self, request: Request) -> Iterator[Arrival]:
        """Count a request until its edit begins or fails. Raises Problem 503 if it should not be read.

        The caller stays inside until the edit has begun: so it counts at every moment, and once.
        """
        arrival = Arrival(request, self._check_arrival)
        self._arrivals.add(arrival)
        try:
            self._check_arrival(arrival)
            yield arrival
        finally:
            self._arrivals.discard(arrival)

    def check_room(self, let_in: float) -> None:
        """Raise Problem 503, and count it, if a new request should not be read.

        let_in: requests, by the share of their bodies that is here, that will arrive before it.
        """
        self._check(self.wait + self.backend.typical * let_in)

    def open(self, request: EditRequest, arrival: Arrival) -> Running:
        """Begin an edit; an older one of its session is cancelled. Raises Problem 503 while the server ends."""
        if self.draining:
            raise overloaded("the server is ending", 5)
        if request.session is not None and (older := self._sessions.get(request.session)) is not None:
            older.cancel(Problem(409, "a newer edit of the session took the place of this one", "superseded"))
        running = Running(self.backend, request, lambda: self._arrivals.discard(arrival))
        self._running.add(running)
        if request.session is not None:
            self._sessions[request.session] = running
        running.task.add_done_callback(lambda _: self._ended(running, request))
        return running

    def drain(self) -> None:
        """Refuse new edits from now on."""
        self.draining = True

    def cancel_all(self) -> None:
        """End all edits; their clients are told."""
        for running in list(self._running):
            running.cancel(overloaded("the server is ending, and the edit was not done in time", 5))

    def _wait(self, arrival: Arrival | None) -> float:
        """The wait behind all others than this arrival."""
        return self.backend.wait + self.backend.typical * sum(a.share for a in self._arrivals if a is not arrival)

    def _check_arrival(self, arrival: Arrival) -> None:
        self._check(self._wait(arrival))

    def _check(self, wait: float) -> None:
        try:
            if self.draining:
                raise overloaded("the server is ending", 5)
            check_wait(wait, self.limits.wait_seconds)
        except Problem as problem:
            self.telemetry.ended(problem, 0.0)
            raise

    def _ended(self, running: Running, request: EditRequest) -> None:
        self._running.discard(running)
        if request.session is not None and self._sessions.get(request.session) is running:
            del self._sessions[request.session]
        problem = running.problem  # this also tells asyncio that the error was looked at
        self.telemetry.ended(running.task.result() if problem is None else problem, time.time() - running.created)
