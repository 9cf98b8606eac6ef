"""The one door for products: open a bundle once, edit as often as you like, from as many threads as you like."""

import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from PIL import Image

from sdedit import __version__
from sdedit.errors import EngineError, ImageError

from .bundle import SHIPPED, Bundle, read_bundle
from .codec import codec_for
from .devices import open_device
from .images import (
    Canvas,
    Source,
    difference_mask,
    masked_canvas,
    open_mask,
    open_picture,
    paste,
    save_png,
    whole_canvas,
)
from .jobs import Ticket, Worker
from .loop import Device, Loop
from .settings import EditOptions, Settings

RECIPE_KEY = "sdedit"
"""The PNG text chunk that holds an image's recipe, as JSON."""


@dataclass(frozen=True)
class EditedImage:
    """One result. pil: the image. recipe: all that made it, as resolved; it goes into the PNG."""

    pil: Image.Image
    recipe: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Write a PNG with the recipe in its text chunk RECIPE_KEY; `path` is complete or untouched. ImageError."""
        save_png(self.pil, Path(path), {RECIPE_KEY: json.dumps(self.recipe, sort_keys=True)})


@dataclass(frozen=True)
class Edit:
    """What an edit gave. recipe: what all images share. timings: seconds, by phase, and network evaluations."""

    images: list[EditedImage]
    recipe: Mapping[str, Any]
    timings: Mapping[str, float]


@dataclass(frozen=True)
class Preview:
    """What an image of a job would be if it ended now. step of steps: network evaluations, all images together."""

    step: int
    steps: int
    image: int
    pil: Image.Image


class Job:
    """An edit in flight, from Editor.submit; its methods may be called from any thread, as often as you like."""

    def __init__(self, editor: "Editor", ticket: Ticket, canvas: Canvas, recipe: dict[str, Any], begun: float) -> None:
        self._editor = editor
        self._ticket = ticket
        self._canvas = canvas
        self._recipe = recipe
        self._begun = begun
        self._submitted = time.perf_counter()
        self._edit: Edit | None = None
        self._lock = threading.Lock()

    @property
    def done(self) -> bool:
        """Whether it has ended: with a result, with an error, or cancelled."""
        return self._ticket.done

    def result(self, timeout: float | None = None) -> Edit:
        """The edit, when done. TimeoutError after `timeout` seconds (the job goes on), CancelledError, EngineError."""
        if not self._ticket.wait(timeout):
            raise TimeoutError(f"the edit is not done after {timeout:g} s")
        if self._ticket.error is not None:
            raise self._ticket.error
        with self._lock:
            if self._edit is None:
                self._edit = self._finish()
            return self._edit

    def cancel(self) -> bool:
        """End the job at the next step; `result` then raises CancelledError. False if it had ended already."""
        return self._editor._worker.cancel(self._ticket)

    def previews(self) -> Iterator[Preview]:
        """The newest state of the job, whenever you ask, until it ends; asking late skips, and never slows the edit."""
        for progress in self._ticket.watch(previews=True):
            assert progress.x0 is not None
            pil = paste(self._canvas, self._editor._codec.preview(progress.x0), exact=True)
            yield Preview(progress.step, progress.steps, progress.image, pil)

    def _finish(self) -> Edit:
        started = time.perf_counter()
        ticket = self._ticket
        images = []
        for index in ticket.numbers:
            picture = self._editor._codec.decode(ticket.states.pop(index))
            pil = paste(self._canvas, picture, ticket.plan.keeps_exactly)
            images.append(EditedImage(pil, {**self._recipe, "image": index}))
        assert ticket.finished_at is not None
        timings = {
            "prepare": self._submitted - self._begun,
            "wait": ticket.started_at - self._submitted,
            "loop": ticket.finished_at - ticket.started_at,
            "finish": time.perf_counter() - started,
            "evaluations": ticket.steps,
        }
        return Edit(images, self._recipe, timings)


class Editor:
    """A bundle on an engine and a device. `Editor.open` makes one; all its methods may be called from any thread.

    It is a context manager; leaving it closes it.
    """

    def __init__(self, bundle: Bundle, device: Device) -> None:
        self.bundle = bundle
        self.device = device
        self._codec = codec_for(bundle)
        self._worker = Worker(Loop(device))
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
    ) -> "Editor":
        """Load and verify a bundle (None: the shipped model) on this machine's CPU, or its first GPU.

        engine, precision: by name, or "auto" (docs/engines.md). threads: of the engine; None: what `sdedit tune` found
        best, or the processors there are. slots: images in flight at once. device: cpu, or cuda (docs/gpu.md). eager:
        on cuda, run each step's calls instead of a captured graph. Raises BundleError, EngineError.
        """
        if slots < 1:
            raise EngineError(f"slots {slots} is not at least 1")
        loaded = read_bundle(SHIPPED if bundle is None else bundle)
        return cls(loaded, open_device(loaded, device, engine, precision, threads, slots, eager))

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
        painted over. on_step: called here with the network evaluations done and in all. options, with their defaults:
        see Settings.

        Raises ImageError, PlanError, EngineError. What on_step raises, and Ctrl-C, end the edit and come through.
        """
        job = self.submit(guide, mask, base=base, **options)
        try:
            if on_step is not None:
                for progress in job._ticket.watch(previews=False):
                    on_step(progress.step, progress.steps)
            return job.result()
        except BaseException:
            job.cancel()
            raise

    def submit(
        self, guide: Source, mask: Source | None = None, *, base: Source | None = None, **options: Unpack[EditOptions]
    ) -> Job:
        """Begin an edit and return at once; arguments and errors of `edit`, but for EngineError of the engine.

        Jobs share the slots: each free slot takes the next image of the next job in turn.
        """
        begun = time.perf_counter()
        settings = Settings(**options)
        return self._submit(guide, mask, base, settings, range(settings.images), begun)

    def _submit(
        self,
        guide: Source,
        mask: Source | None,
        base: Source | None,
        settings: Settings,
        numbers: range,
        begun: float,
    ) -> Job:
        """The images of these numbers alone."""
        label = settings.label_for(self.bundle.name, self.bundle.classes, self.bundle.null_label)
        plan = settings.plan(self.bundle.schedule, self.bundle.prediction)
        canvas, sources = self._open(guide, mask, base, settings, float(plan.rows["threshold"].min()))
        recipe = {**self._settings(), **sources, **settings.recipe()}
        conditions = {} if label is None else {"label": np.int64(label)}
        null_label = self.bundle.null_label
        null_conditions = {} if null_label is None else {"label": np.int64(null_label)}
        guide_state, mask_state = self._codec.encode(canvas.part), self._codec.mask(canvas.mask)
        ticket = Ticket(plan, guide_state, mask_state, settings.seed, numbers, conditions, null_conditions)
        job = Job(self, ticket, canvas, recipe, begun)
        self._worker.submit(ticket)
        return job

    def close(self) -> None:
        """Cancel all jobs in flight and let go of the worker thread; afterwards nothing can be submitted."""
        self._finalizer()

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(
        self, guide: Source, mask: Source | None, base: Source | None, settings: Settings, threshold: float
    ) -> tuple[Canvas, dict[str, Any]]:
        """What is edited, and what the recipe says of where it came from."""
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

    def _settings(self) -> dict[str, Any]:
        """The recipe's part that is the same for every edit of this editor."""
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
