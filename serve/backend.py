"""Makers of edits behind the server: the interface, and the one of this process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from math import prod
from typing import Any, Protocol

from sdedit.errors import DeviceLostError, PlanError
from sdedit.runtime import Job, Progress
from sdedit.runtime.editor.placing import largest_area, wanted_size
from sdedit.runtime.images import encode_png, multiples
from sdedit.runtime.machine import return_free_memory
from sdedit.runtime.settings import Settings

from .admission import Admission, Place
from .described import describe
from .limits import Limits
from .models import Model, choose
from .pictures import checked_size
from .problems import Problem
from .wire import EditRequest, Finished, MadeImage, Step

Tell = Callable[[Step], None]
"""A function that is called with each step of an edit, the first time when the edit has been taken."""


LARGE_PIXELS = 4 << 20
"""Requests with more pixels are decoded one at a time: a picture needs about 12 bytes a pixel meanwhile."""


class Backend(Protocol):
    """Makes edits. Its methods are called in the event loop's thread and do not block it."""

    async def models(self) -> list[dict[str, Any]]:
        """The models, as `describe` has them."""

    async def edit(self, request: EditRequest, tell: Tell) -> Finished:
        """Make an edit. To cancel it, cancel the task that awaits this. Raises Problem and SdeditErrors."""

    @property
    def wait(self) -> float:
        """Seconds that a new edit would wait, about."""

    @property
    def typical(self) -> float:
        """Seconds of work of one edit, about, for requests that have not been read; 0 if they cause no wait here."""

    @property
    def lost(self) -> bool:
        """Whether it will make no edit any more, since all of its devices are lost."""

    async def close(self) -> None:
        """End what is left and let go of the models."""


class Decoding:
    """Bounds the pictures of one process that are decoded at the same time."""

    def __init__(self, limits: Limits) -> None:
        self._all = asyncio.Semaphore(limits.decoders)
        self._large = asyncio.Semaphore(1)

    @asynccontextmanager
    async def of(self, pixels: int) -> AsyncIterator[None]:
        """Wait for one's turn to decode a request's pictures, of so many pixels together."""
        async with self._large if pixels > LARGE_PIXELS else nullcontext(), self._all:
            yield


class LocalBackend:
    """Editors of this process on one device, one a model, behind one queue."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, decoding: Decoding | None = None) -> None:
        """The backend owns the models' editors, and closes them. decoding: shared with the backends beside it."""
        self._models = models
        self._limits = limits
        first = next(iter(models.values()))
        self._admission = Admission(limits.wait_seconds, Settings.steps * first.seconds)
        self._decoding = decoding or Decoding(limits)
        self.lost = False

    async def models(self) -> list[dict[str, Any]]:
        return [describe(model.name, model.editor.bundle) for model in self._models.values()]

    @property
    def wait(self) -> float:
        return self._admission.wait

    @property
    def typical(self) -> float:
        return self._admission.typical

    @property
    def edits(self) -> int:
        """Edits in flight."""
        return self._admission.edits

    async def edit(self, request: EditRequest, tell: Tell, *, again: bool = False) -> Finished:
        """See Backend. Too large pictures, too much work and a full queue are refused before a picture is decoded.

        again: another backend took it and was lost, so a full queue does not refuse it.
        """
        model = choose(self._models, request.model)
        check_amount(request, self._limits)
        place = self._admission.enter(request.evaluations * model.seconds, always=again)
        try:
            pixels, cost = await asyncio.to_thread(check_cost, request, model, self._limits)
            self._admission.weigh(place, request.evaluations * cost * model.seconds)
            async with self._decoding.of(pixels):
                job = await self._submit(model, request, pixels)
            try:
                return await self._follow(job, request, place, tell)
            finally:
                job.cancel()  # its task was cancelled; a job that has ended does not mind
        except DeviceLostError:
            self.lost = True
            raise
        finally:
            self._admission.leave(place)

    async def close(self) -> None:
        for model in self._models.values():
            await asyncio.to_thread(model.editor.close)

    async def _submit(self, model: Model, request: EditRequest, pixels: int) -> Job:
        def submit() -> Job:
            options = request.settings.options()
            try:
                return model.editor.submit(request.guide, request.mask, base=request.base, **options)
            finally:
                if pixels > LARGE_PIXELS:
                    return_free_memory()  # each thread would keep what its largest picture took

        submitting = asyncio.ensure_future(asyncio.to_thread(submit))
        try:
            return await asyncio.shield(submitting)
        except asyncio.CancelledError:  # the thread goes on, and what it submits must not
            submitting.add_done_callback(cancel_submitted)
            raise

    async def _follow(self, job: Job, request: EditRequest, place: Place, tell: Tell) -> Finished:
        now = job.progress  # it may have made steps already
        step, units = now.step, place.units / now.steps
        self._admission.advance(place, units * step)
        tell(Step(step, now.steps, now.image, now.seconds_left))
        async for progress in follow(job, request.preview_every):
            self._admission.advance(place, units * (progress.step - step))
            step = progress.step
            wanted = request.preview_every and progress.x0 is not None and progress.step < progress.steps
            preview = await asyncio.to_thread(encode_preview, job, progress) if wanted else None
            if not progress.done:
                tell(Step(progress.step, progress.steps, progress.image, progress.seconds_left, preview))
        return await asyncio.to_thread(collect, job)


def check_amount(request: EditRequest, limits: Limits) -> None:
    """Raise Problem 422 for more images or evaluations than the server makes at once."""
    images, evaluations = request.settings.images, request.evaluations
    if images > limits.images:
        raise Problem(422, f"images {images}: this server makes at most {limits.images} at once")
    if evaluations > limits.evaluations:
        raise Problem(
            422,
            f"steps x repeats x images is {evaluations} network evaluations: this server makes at most "
            f"{limits.evaluations} for an edit",
        )


def check_cost(request: EditRequest, model: Model, limits: Limits) -> tuple[int, float]:
    """Pixels of all pictures, and the cost of one evaluation at most, the native size's being 1, from their headers.

    Raises Problem 413 for a picture of too many pixels, 422 for too much work, ImageError and PlanError.
    """
    sizes = {name: checked_size(data, name, limits) for name, data in request.pictures.items()}
    cost = max(1.0, edited_area(request, model, sizes["guide"]) / model.native_area)
    cost *= 1 if request.settings.guidance == 1 else 2
    if request.evaluations * cost > limits.evaluations:
        raise Problem(
            422,
            f"at this size the edit costs up to {request.evaluations * cost:.0f} network evaluations of the native "
            f"size: this server makes at most {limits.evaluations} for an edit",
        )
    return sum(width * height for width, height in sizes.values()), cost


def edited_area(request: EditRequest, model: Model, guide: tuple[int, int]) -> int:
    """The most pixels that the network works on at once, or tile after tile. guide: its width and height."""
    settings, image = request.settings, model.editor.bundle.image
    if settings.max_pixels is not None and settings.max_pixels > image.max_pixels:
        raise PlanError(f"max_pixels {settings.max_pixels}: this server edits at most {image.max_pixels} at once")
    masked = request.mask is not None or request.base is not None or settings.mask_from == "alpha"
    if settings.size == "guide" or (settings.size is None and masked and (image.free or settings.tile)):
        area = prod(multiples(guide, image.multiple_of))
        return area if settings.tile else min(area, largest_area(settings, image))
    return prod(wanted_size(str(settings.size or "native"), image, guide))


async def follow(job: Job, preview_every: int) -> AsyncIterator[Progress]:
    """The job's newest progress and newest preview each time that the caller is ready; the last has `done` set."""
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    newest: dict[bool, Progress] = {}

    def keep(progress: Progress) -> None:
        newest[progress.x0 is not None and not progress.done] = progress
        arrived.set()

    def tell(progress: Progress) -> None:  # in the editor's thread
        with suppress(RuntimeError):  # the event loop has ended
            loop.call_soon_threadsafe(keep, progress)

    stop = job.subscribe(tell, preview_every=preview_every)
    last = 0
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            taken = sorted(newest.values(), key=lambda progress: (progress.step, progress.done))
            newest.clear()
            for progress in taken:
                if progress.step > last or progress.done:
                    last = progress.step
                    yield progress
                if progress.done:
                    return
    finally:
        stop()


def encode_preview(job: Job, progress: Progress) -> bytes:
    """The PNG of a step's preview, without a recipe: it is not the result."""
    return encode_png(job.preview(progress).pil, {})


def collect(job: Job) -> Finished:
    """The result of a job that has ended. Raises its error."""
    edit = job.result()
    return Finished(tuple(MadeImage(image.to_bytes(), dict(image.recipe)) for image in edit.images), edit.timings)


def cancel_submitted(submitting: "asyncio.Future[Job]") -> None:
    """Cancel the job that a thread submitted when nobody waited for it any more."""
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
