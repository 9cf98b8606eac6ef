"""An edit in flight and its results."""

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit.errors import EngineError

from ..codec import Codec
from ..images import Canvas, encode_png, paste, save_png
from ..jobs import Progress, Subscription, Ticket, Worker, wait_for
from ..recipe import write_recipe


@dataclass(frozen=True)
class EditedImage:
    """One result. pil: the image. recipe: everything that made it, as resolved; it goes into the PNG."""

    pil: Image.Image
    recipe: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a PNG that carries the recipe; `path` is complete or untouched. Raises ImageError."""
        save_png(self.pil, Path(path), write_recipe(self.recipe))

    def to_bytes(self) -> bytes:
        """The PNG that `save` writes."""
        return encode_png(self.pil, write_recipe(self.recipe))


@dataclass(frozen=True)
class Edit:
    """The result of an edit. recipe: the part that all images share. timings: seconds by phase; network evaluations."""

    images: list[EditedImage]
    recipe: Mapping[str, Any]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Preview:
    """The picture that an image of a job would be if it ended now. step of steps: network evaluations of all images."""

    step: int
    steps: int
    image: int
    pil: Image.Image


class Job:
    """An edit in flight, from Editor.submit. Its methods may be called from any thread, as often as you like.

    `await job` gives its Edit in asyncio; if the awaiting task is cancelled, so is the edit.
    """

    def __init__(
        self,
        worker: Worker,
        ticket: Ticket,
        canvas: Canvas,
        codec: Codec,
        recipe: Mapping[str, Any],
        begun: float,
    ) -> None:
        self._worker = worker
        self._ticket = ticket
        self._canvas = canvas
        self._codec = codec
        self._recipe = recipe
        self._begun = begun
        self._submitted = time.perf_counter()
        self._edit: Edit | None = None
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether it has ended: with a result, with an error, or cancelled."""
        return self._ticket.done

    @property
    def progress(self) -> Progress:
        """The newest progress, without a preview: step, steps, image, seconds_left, done."""
        ticket = self._ticket
        return ticket.last_event() if ticket.done else ticket.progress or Progress(0, ticket.steps, 0)

    def result(self, timeout: float | None = None) -> Edit:
        """The edit, when done. TimeoutError after `timeout` seconds (the job goes on), CancelledError, EngineError."""
        if timeout is not None and not (isinstance(timeout, int | float) and timeout >= 0):
            raise EngineError(f"timeout {timeout!r} is not a number of seconds from 0 on")
        if not self._ticket.done:
            self._worker.check_process()
        if not self._ticket.wait(None if timeout is None or math.isinf(timeout) else timeout):
            raise TimeoutError(f"the edit is not done after {timeout:g} s")
        if self._ticket.error is not None:
            raise self._ticket.error.with_traceback(None)  # it is raised at every call: a traceback would grow
        with self._lock:
            if self._edit is None:
                self._edit = self._finish()
            return self._edit

    def cancel(self) -> bool:
        """End the job at the next step; `result` then raises CancelledError. False if it had ended already."""
        return self._worker.cancel(self._ticket)

    def subscribe(self, callback: Callable[[Progress], None], *, preview_every: int = 0) -> Callable[[], None]:
        """Call `callback` after every network evaluation, and once more, with done set, when the job ends.

        preview_every: every so many evaluations the event has x0, for `preview`; 0: never. The callback runs on the
        worker thread between steps: it must be quick, and what it raises is logged and ends the subscription. Returns
        a function that ends it.
        """
        subscription = Subscription(callback, preview_every)
        self._ticket.subscribe(subscription)
        return lambda: self._ticket.unsubscribe(subscription)

    def add_done_callback(self, callback: Callable[["Job"], None]) -> None:
        """Call `callback(job)` once, when the job ends, on the worker thread; at once if it has ended."""
        self.subscribe(lambda event: callback(self) if event.done else None)

    def preview(self, event: Progress) -> Preview:
        """The picture of an event that has x0: decoded here, in the thread that asks for it."""
        if event.x0 is None:
            raise EngineError("the event has no preview: subscribe with preview_every")
        pil = paste(self._canvas, self._codec.preview(event.x0), exact=True)
        return Preview(event.step, event.steps, event.image, pil)

    def previews(self) -> Iterator[Preview]:
        """The state of the job after the next evaluation, each time you ask, until it ends.

        Each preview costs one copy of the newest prediction; what happens between two of them costs nothing.
        """
        with self._events() as (subscription, next_event):
            while True:
                subscription.asked = True
                event = next_event(lambda event: event.done or event.x0 is not None)
                if event.done:
                    return
                yield self.preview(event)

    def watch(self) -> Iterator[Progress]:
        """The newest progress each time you ask, until the job ends; events that you are too late for are skipped."""
        seen = 0
        with self._events() as (_, next_event):
            while True:
                event = next_event(lambda _: True)
                if event.step > seen:
                    seen = event.step
                    yield event
                if event.done:
                    return

    @contextlib.contextmanager
    def _events(self) -> Iterator[tuple[Subscription, Callable[[Callable[[Progress], bool]], Progress]]]:
        """A subscription, and a function that waits for its newest event of some kind."""
        arrived = threading.Condition()
        newest: list[Progress] = []

        def listen(event: Progress) -> None:
            with arrived:
                newest[:] = [event]
                arrived.notify_all()

        def next_event(wanted: Callable[[Progress], bool]) -> Progress:
            with arrived:
                wait_for(arrived, lambda: bool(newest) and wanted(newest[0]), None)
                return newest.pop()

        subscription = Subscription(listen)
        self._ticket.subscribe(subscription)
        try:
            yield subscription, next_event
        finally:
            self._ticket.unsubscribe(subscription)

    def __await__(self) -> Generator[Any, None, Edit]:
        return self._wait_in_asyncio().__await__()

    async def _wait_in_asyncio(self) -> Edit:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        def tell(_: Job) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(end)

        self.add_done_callback(tell)
        try:
            await ended
        except asyncio.CancelledError:
            self.cancel()
            raise
        return await loop.run_in_executor(None, self.result)

    def _finish(self) -> Edit:
        """Decode and paste all images; nothing is lost if this is interrupted and done again."""
        started = time.perf_counter()
        ticket = self._ticket
        images = []
        for task in ticket.tasks:
            picture = self._codec.decode(ticket.states[task.image])
            pil = paste(self._canvas, picture, task.plan.keeps_exactly)
            images.append(EditedImage(pil, {**self._recipe, "image": task.image}))
        assert ticket.finished_at is not None
        timings = {
            "prepare": self._submitted - self._begun,
            "wait": ticket.started_at - self._submitted,
            "loop": ticket.finished_at - ticket.started_at,
            "finish": time.perf_counter() - started,
            "evaluations": ticket.steps,
        }
        edit = Edit(images, self._recipe, timings)
        ticket.states.clear()
        return edit
