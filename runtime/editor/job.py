"""An edit in flight and its results."""

import asyncio
import copy
import math
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sdedit import __version__
from sdedit.errors import EngineError, ImageError, PlanError, out_of_memory, shown

from ..bundle import Bundle
from ..codec import Codec
from ..images import Canvas, encode_png, paste, save_image
from ..jobs import LOG, Demand, Listener, News, Progress, Ticket, Worker
from ..loop import Device, Task
from ..option import to_integer, to_number, to_path
from ..recipe import write_recipe


def fixed_recipe(bundle: Bundle, device: Device) -> dict[str, Any]:
    """The part of a recipe that is the same for every edit with this bundle on this device."""
    engine = device.engine
    return {
        "version": __version__,
        "bundle": {"name": bundle.name, "sha256": bundle.sha256},
        "device": device.name,
        "kernels": device.kernels,
        "engine": {
            "name": engine.name,
            "version": engine.version,
            "precision": engine.precision,
            "threads": engine.threads,
            **({"batch": engine.batch} if engine.batch > 1 else {}),  # it may choose its kernels by it
        },
    }


@dataclass(frozen=True)
class EditedImage:
    """One result. pil: the image. recipe: everything that made it, as resolved; it goes into the file."""

    pil: Image.Image
    recipe: Mapping[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an image that carries the recipe; `path` is complete or untouched. Raises ImageError.

        Its suffix says the format: .png and .webp keep every pixel, .jpg and .jpeg do not.
        """
        save_image(self.pil, to_path("path", path, ImageError), write_recipe(self.recipe))

    def to_bytes(self) -> bytes:
        """The PNG that `save` writes, as bytes."""
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


OnStep = Callable[[int, int], object]
"""A function that is called with the network evaluations done, and in all."""


class Job:
    """An edit in flight, from Editor.submit. All its methods may be called from any thread, any number of times.

    `await job` gives the Edit in an asyncio program; a wait that times out or is cancelled cancels the edit.
    """

    def __init__(
        self,
        editor: object,
        worker: Worker,
        ticket: Ticket,
        canvas: Canvas,
        codec: Codec,
        recipe: Mapping[str, Any],
        begun: float,
    ) -> None:
        """editor: stays open as long as the job is there. begun: seconds of time.perf_counter."""
        self._editor = editor
        self._worker = worker
        self._ticket = ticket
        self._canvas = canvas
        self._codec = codec
        self._recipe = recipe
        self._begun = begun
        self._submitted = time.perf_counter()
        self._edit: Edit | None = None
        self._finishing = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether the job has ended: with a result, with an error, or cancelled."""
        return self._ticket.done

    @property
    def progress(self) -> Progress:
        """Where the job stands now: step, steps, image, seconds left."""
        return self._ticket.progress

    def result(self, timeout: float | None = None) -> Edit:
        """Wait for the edit, `timeout` seconds at most (None, inf: without a limit; below 0: not at all).

        Raises PlanError for a timeout that is no number. Raises TimeoutError (the job goes on), CancelledError,
        EngineError, and what on_step raised. Raises EngineError in a forked child, and in a callback of a job that has
        not ended, which would wait for itself. After a Ctrl-C, or for lack of memory, call it again: nothing is lost.
        """
        limit = _seconds(timeout)
        self._worker.check_process()
        if self._worker.is_this_thread() and not self.done:
            raise EngineError("result was called in a job's callback, before that job ended: it would never return")
        if not self._ticket.wait(limit):
            raise TimeoutError(f"the edit is not done after {limit:g} s")
        if self._ticket.error is not None:
            raise _raised_again(self._ticket.error)
        with self._finishing:
            if self._edit is None:
                try:
                    self._edit = self._finish()
                except MemoryError as error:
                    raise EngineError(out_of_memory("the images of the edit", error)) from None
            self._ticket.results.clear()  # not before: whatever interrupts the making of the pictures loses nothing
            return self._edit

    def cancel(self) -> bool:
        """End the job at the next step: `result` then raises CancelledError. False if the job had ended already."""
        self._worker.check_process()
        return self._worker.cancel(self._ticket)

    def subscribe(self, callback: Callable[[Progress], object], *, preview_every: int = 0) -> Callable[[], None]:
        """Call `callback` with a Progress after each evaluation, and once more, with done set, when the job has ended.

        It is called in the editor's thread between steps, so it must be quick: hand long work over to a thread of
        yours. A callback that raises is logged and not called again. It is called at once, here, if the job has ended.
        preview_every: every so many evaluations the event has x0, for `preview`; 0: never. That costs one copy of the
        prediction. An image's last evaluation has x0 without a copy. The function returned ends the subscription.
        """
        if not callable(callback):
            raise PlanError(f"callback {shown(callback)} is not a function")
        every = to_integer("preview_every", preview_every)
        if every < 0:
            raise PlanError(f"preview_every {every} is not at least 0")
        self._worker.check_process()
        return self._ticket.listen(Listener(callback, lambda step: every > 0 and step % every == 0))

    def add_done_callback(self, callback: Callable[["Job"], object]) -> None:
        """Call `callback` with this job when it has ended, as concurrent.futures does; see `subscribe`."""
        if not callable(callback):
            raise PlanError(f"callback {shown(callback)} is not a function")
        self.subscribe(lambda progress: callback(self) if progress.done else None)

    def preview(self, progress: Progress) -> Preview:
        """The picture of an event that has x0: decoded here, in the thread that asks for it."""
        if not isinstance(progress, Progress):
            raise PlanError(f"progress {shown(progress)} is not an event of a job")
        if progress.x0 is None:
            raise EngineError("the event has no preview: subscribe with preview_every")
        pil = paste(self._canvas, self._codec.preview(progress.x0), exact=True)
        return Preview(progress.step, progress.steps, progress.image, pil)

    def previews(self) -> Iterator[Preview]:
        """Previews until the job ends: each of the first evaluation after you ask for it, the last of the result.

        Each preview that you take costs one copy of the newest prediction. Evaluations between two of them cost none.
        """
        self._worker.check_process()
        demand, last = Demand(), 0
        with News(self._ticket, demand) as news:
            while True:
                progress = demand.next(news)
                if progress.x0 is not None and progress.step > last:
                    last = progress.step
                    yield self.preview(progress)
                if progress.done:
                    return

    def watch(self) -> Iterator[Progress]:
        """The newest progress each time you ask, until the job ends. Events that you are too late for are skipped."""
        self._worker.check_process()
        last = 0
        with News(self._ticket) as news:
            while True:
                progress = news.take()[-1]
                if progress.step > last:
                    last = progress.step
                    yield progress
                if progress.done:
                    return

    def __await__(self) -> Generator[Any, None, Edit]:
        return self._wait_in_asyncio().__await__()

    async def _wait_in_asyncio(self) -> Edit:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(progress: Progress) -> None:
            if progress.done:
                with suppress(RuntimeError):  # the loop was closed: nobody waits
                    loop.call_soon_threadsafe(ended.set)

        stop = self.subscribe(wake)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            self.cancel()
            raise
        finally:
            stop()
        return await asyncio.to_thread(self.result)

    def _call_on_step(self, on_step: OnStep) -> None:
        """Call it in the editor's thread; what it raises ends the job and comes from `result`."""

        def call(progress: Progress) -> None:
            if progress.done:
                return
            try:
                on_step(progress.step, progress.steps)
            except BaseException as error:
                self._ticket.cancel(error)

        self._ticket.listen(Listener(call))

    def _joined(self, picture: Image.Image, task: Task) -> Image.Image:
        """The picture of a task, as it is pasted: where pixels around it are kept, it fits them."""
        if self._canvas.change is None or not task.plan.keeps_exactly:
            return picture
        kept = self._canvas.mask < task.plan.rows["threshold"].min()
        return self._codec.join(picture, self._canvas.part, kept)

    def _finish(self) -> Edit:
        """Decode and paste all images."""
        started = time.perf_counter()
        ticket = self._ticket
        images = []
        for task in ticket.tasks:
            picture = self._codec.decode(ticket.results[task])
            pil = paste(self._canvas, self._joined(picture, task), task.plan.keeps_exactly)
            images.append(EditedImage(pil, {**self._recipe, "image": task.image}))
        assert ticket.finished_at is not None
        timings = {
            "prepare": self._submitted - self._begun,
            "wait": ticket.started_at - self._submitted,
            "loop": ticket.finished_at - ticket.started_at,
            "finish": time.perf_counter() - started,
            "evaluations": ticket.progress.steps,
        }
        LOG.debug("job of %d images ended: %s", len(images), timings)
        return Edit(images, self._recipe, timings)


def _seconds(timeout: float | None) -> float | None:
    """None for no limit."""
    if timeout is None:
        return None
    seconds = to_number("timeout", timeout)
    if math.isnan(seconds):
        raise PlanError("timeout nan is not a number")
    return None if seconds == math.inf else max(seconds, 0.0)


def _raised_again(error: BaseException) -> BaseException:
    """A copy of a stored exception, to be raised: the stored one would grow by each place that it is raised in."""
    try:
        fresh = copy.copy(error)
    except Exception:  # its class takes other arguments than it keeps
        fresh = error
    if type(fresh) is not type(error):
        fresh = error
    if fresh is error:
        return error.with_traceback(None)
    fresh.__cause__, fresh.__suppress_context__ = error.__cause__, error.__suppress_context__
    return fresh.with_traceback(error.__traceback__)
