"""The one door for products: open a bundle once, edit as often as you like, from as many threads as you like."""

import operator
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from sdedit import __version__
from sdedit.errors import EngineError, ImageError, PlanError

from ..bundle import SHIPPED, Bundle, read_bundle
from ..codec import codec_for
from ..devices import open_device
from ..images import Canvas, Source, difference_mask, masked_canvas, open_mask, open_picture, whole_canvas
from ..jobs import LOG, Progress, Ticket, Worker
from ..loop import Device, Loop, Task
from ..settings import EditOptions, Settings
from .job import Edit, Job


class Editor:
    """A bundle on an engine and a device. `Editor.open` makes one; all its methods may be called from any thread.

    It is a context manager; leaving it closes it.
    """

    def __init__(self, bundle: Bundle, device: Device, *, max_waiting: int | None = None) -> None:
        self.bundle = bundle
        self.device = device
        self._codec = codec_for(bundle)
        self._worker = Worker(Loop(device), max_waiting)
        self._finalizer = weakref.finalize(self, self._worker.close)  # at exit as well

    @classmethod
    def open(
        cls,
        bundle: str | Path | None = None,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        slots: int = 1,
        device: str = "cpu",
        eager: bool = False,
        max_waiting: int | None = None,
    ) -> "Editor":
        """Load and verify a bundle (None: the shipped model) on this machine's CPU, or its first GPU.

        engine, precision: by name, or "auto" (docs/engines.md). threads: number of CPU threads of the engine; None: as
        `sdedit tune` found best, or one a processor. slots: images in flight at once. device: cpu, or cuda
        (docs/gpu.md). eager: on cuda, launch each step's calls instead of a captured graph. max_waiting: jobs that may
        wait for a slot; None: any number. Raises BundleError, EngineError.
        """
        check_arguments(bundle, engine, precision, threads, slots, device, eager, max_waiting)
        loaded = read_bundle(SHIPPED if bundle is None else bundle)
        opened = open_device(loaded, device, engine, precision, threads, slots, eager)
        found = opened.engine
        LOG.info("%s on %s, %s, %s threads", loaded.name, found.name, found.precision, found.threads)
        return cls(loaded, opened, max_waiting=max_waiting)

    def edit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        base: Source | None = None,
        on_step: Callable[[int, int], None] | None = None,
        **options: Unpack[EditOptions],
    ) -> Edit:
        """Noise the guide to t0 and bring it back to a clean image: SDEdit, Algorithms 2 to 5.

        guide: strokes, strokes over a photo, or a composite. mask: white = may change, grey = from that fraction of t0
        on, black = stays byte for byte; of the guide's size. base: instead of a mask, the photo that the guide was
        painted over. on_step: called in this thread with the network evaluations done and in all. options: see
        Settings.

        Raises ImageError, PlanError, EngineError. If on_step raises, or on Ctrl-C, the edit ends and the error comes
        through.
        """
        check_callable("on_step", on_step)
        job = self.submit(guide, mask, base=base, **options)
        try:
            if on_step is not None:
                for progress in job.watch():
                    on_step(progress.step, progress.steps)
            return job.result()
        except BaseException:
            job.cancel()
            raise

    def submit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        base: Source | None = None,
        on_step: Callable[[int, int], None] | None = None,
        image_numbers: Sequence[int] | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """Begin an edit and return at once; arguments and errors of `edit`, except an engine's failure.

        on_step: called on the worker thread, see Job.subscribe. image_numbers: the images to make, of those that the
        seed has; None: 0 .. images - 1. With the seed, an image's number keys its noise. Jobs share the slots: each
        free slot takes the next image of the next job in turn.
        """
        begun = time.perf_counter()
        check_callable("on_step", on_step)
        settings = Settings(**options)
        numbers = range(settings.images) if image_numbers is None else check_numbers(image_numbers)
        plan = settings.plan(self.bundle.schedule, self.bundle.prediction)
        conditions, null_conditions = self._conditions(settings)
        canvas, sources = self._place(guide, mask, base, settings, float(plan.rows["threshold"].min()))
        guide_state, mask_state = self._codec.encode(canvas.part), self._codec.mask(canvas.mask)
        tasks = [
            Task(plan, guide_state, mask_state, settings.seed, number, conditions, null_conditions)
            for number in numbers
        ]
        recipe = {**self._fixed_recipe(), **sources, **settings.recipe()}
        job = Job(self._worker, Ticket(tasks), canvas, self._codec, recipe, begun)
        if on_step is not None:
            job.subscribe(calling(on_step))
        self._worker.submit(job._ticket)
        return job

    def close(self) -> None:
        """Cancel all jobs in flight and let go of the worker thread; afterwards nothing can be submitted."""
        self._finalizer()

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _conditions(self, settings: Settings) -> tuple[dict[str, np.generic], dict[str, np.generic]]:
        """Values of the network's inputs besides x and time, for the edit and for its unconditional pass."""
        label = settings.label_for(self.bundle.name, self.bundle.classes, self.bundle.null_label)
        null_label = self.bundle.null_label
        conditions: dict[str, np.generic] = {} if label is None else {"label": np.int64(label)}
        return conditions, {} if null_label is None else {"label": np.int64(null_label)}

    def _place(
        self, guide: Source, mask: Source | None, base: Source | None, settings: Settings, threshold: float
    ) -> tuple[Canvas, dict[str, Any]]:
        """The canvas of an edit, and the part of the recipe that names its sources."""
        channels, size = self._codec.picture_channels, self._codec.picture_size
        picture = open_picture(guide, "guide", channels)
        sources: dict[str, Any] = {"guide": picture.identity, "mask": None, "base": None}
        if mask is not None and base is not None:
            raise ImageError("mask and base are both given: one of them says where the guide may change")
        if mask is None and base is None:
            return whole_canvas(picture.image, size, settings.fit), sources
        if mask is not None:
            values, origin = open_mask(mask, picture.image.size)
            sources["mask"] = origin.identity
        else:
            assert base is not None
            origin = open_picture(base, "base", channels)
            values = difference_mask(picture.image, origin.image)
            sources["base"] = origin.identity
        return masked_canvas(picture.image, values, size, settings.context, threshold), sources

    def _fixed_recipe(self) -> dict[str, Any]:
        """The part of the recipe that is the same for every edit of this editor."""
        engine = self.device.engine
        return {
            "version": __version__,
            "bundle": {"name": self.bundle.name, "sha256": self.bundle.sha256},
            "device": self.device.name,
            "kernels": self.device.kernels,
            "engine": {
                "name": engine.name,
                "version": engine.version,
                "precision": engine.precision,
                "threads": engine.threads,
                **({"batch": engine.batch} if engine.batch > 1 else {}),  # it may choose its kernels by it
            },
        }


def calling(on_step: Callable[[int, int], None]) -> Callable[[Progress], None]:
    """A listener that calls on_step after every evaluation."""
    return lambda event: None if event.done else on_step(event.step, event.steps)


def check_numbers(numbers: Sequence[int]) -> list[int]:
    """Distinct image numbers; raises PlanError."""
    try:
        found = [operator.index(number) for number in numbers]
    except TypeError:
        raise PlanError(f"image_numbers {numbers!r} is not a list of integers") from None
    if not found or len(set(found)) != len(found) or not all(0 <= number < 2**32 for number in found):
        raise PlanError(f"image_numbers {found} are not distinct numbers in 0..2^32-1")
    return found


def check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise PlanError(f"{name} {value!r} is not a function")


def check_arguments(
    bundle: object,
    engine: object,
    precision: object,
    threads: object,
    slots: object,
    device: object,
    eager: object,
    max_waiting: object,
) -> None:
    """Raise EngineError for an argument of Editor.open that is of another type, or out of range."""
    if not isinstance(bundle, str | os.PathLike | None):
        raise EngineError(f"bundle {bundle!r} is not a folder's name")
    for name, text in (("engine", engine), ("precision", precision), ("device", device)):
        if not isinstance(text, str):
            raise EngineError(f"{name} {text!r} is not a name")
    if not isinstance(eager, bool):
        raise EngineError(f"eager {eager!r} is not True or False")
    for name, number, least, optional in (
        ("threads", threads, 1, True),
        ("slots", slots, 1, False),
        ("max_waiting", max_waiting, 0, True),
    ):
        if optional and number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            raise EngineError(f"{name} {number!r} is not an integer")
        if number < least:
            raise EngineError(f"{name} {number} is not at least {least}")
