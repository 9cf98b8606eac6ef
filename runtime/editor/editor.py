"""The one door for products: open a bundle once, edit as often as you like, from as many threads as you like."""

import os
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Unpack

import numpy as np

from sdedit.errors import EngineError, out_of_memory

from ..bundle import Bundle
from ..codec import codec_for
from ..devices import open_device
from ..engines import Component, load_component
from ..engines.box import BoxNetwork
from ..engines.memory import kept_shapes
from ..images import Canvas, Source
from ..jobs import LOG, Ticket, Worker
from ..loop import Device, Loop, Task
from ..machine import check_memory
from ..settings import EditOptions, Settings
from .arguments import DeviceName, EngineName, PrecisionName, check_function, check_image_numbers, check_opening, load
from .conditions import Conditioner
from .job import Edit, Job, OnStep, fixed_recipe
from .placing import place
from .session import MEMORY, Session, open_session

CLOSE_SECONDS = 5.0
"""`close` waits this long for the evaluation under way; an engine that takes longer is freed when it returns."""

EXIT_SECONDS = 15.0
"""The same for an editor that is forgotten, or open at the interpreter's exit: onnxruntime aborts a process that ends
during an evaluation."""


class Editor:
    """A bundle on an engine and a device. `Editor.open` makes one; all its methods may be called from any thread.

    It is a context manager; leaving it closes it.
    """

    def __init__(self, bundle: Bundle, device: Device, *, max_waiting: int | None = None) -> None:
        """See `open`. The editor owns the device, and closes it."""
        self.bundle = bundle
        self.device = device
        self._codec = codec_for(bundle, self._load)
        self._conditioner = Conditioner(bundle, self._load)
        self._boxes: BoxNetwork | None = None
        self._loading = threading.Lock()
        loop = Loop(device, kept_shapes(bundle) - 1)
        self._worker = Worker(loop, None if max_waiting is None else device.slots + max_waiting)
        self._finalizer = weakref.finalize(self, self._worker.close, EXIT_SECONDS)

    @classmethod
    def open(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        engine: EngineName = "auto",
        precision: PrecisionName = "auto",
        threads: int | None = None,
        slots: int = 1,
        device: DeviceName | str = "cpu",
        eager: bool = False,
        max_waiting: int | None = None,
    ) -> "Editor":
        """Load and verify a bundle (None: the shipped model) on this machine's CPU, or its first GPU.

        engine, precision: by name, or "auto" (docs/engines.md). threads: number of CPU threads of the engine; None: as
        `sdedit tune` found best, or one a processor. slots: images in flight at once. device: cpu, cuda, or cuda:1 ...
        (docs/gpu.md). eager: on cuda, launch each step's calls instead of a captured graph. max_waiting: jobs that may
        be in flight beside one for each slot; `submit` refuses more; None: any number. Raises BundleError, EngineError.
        """
        threads, slots, max_waiting = check_opening(engine, precision, threads, slots, device, eager, max_waiting)
        loaded = load(bundle)
        try:
            opened = open_device(loaded, device, engine, precision, threads, slots, eager)
        except MemoryError as error:
            raise EngineError(out_of_memory(f"bundle {loaded.name} on device {device}", error)) from None
        try:
            network = opened.engine
            LOG.info(
                "%s: %s %s, %s, threads %s, on %s with the %s kernels, slots %d",
                *(loaded.name, network.name, network.version, network.precision, network.threads),
                *(opened.name, opened.kernels, slots),
            )
            return cls(loaded, opened, max_waiting=max_waiting)
        except BaseException:  # Ctrl-C, before the editor owns the device
            opened.close()
            raise

    def edit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        base: Source | None = None,
        on_step: OnStep | None = None,
        image_numbers: Sequence[int] | None = None,
        **options: Unpack[EditOptions],
    ) -> Edit:
        """Noise the guide to t0 and bring it back to a clean image: SDEdit, Algorithms 2 to 5.

        guide: strokes, strokes over a photo, or a composite. mask: white = may change, grey = from that fraction of t0
        on, black = stays byte for byte; it has the guide's size. With mask_from="alpha" transparent pixels may change,
        of the mask or, without one, of the guide. base: instead of a mask, the photo that the guide was painted over.
        on_step: called in this thread with the network evaluations done and in all. image_numbers: which images of the
        seed to make, each in 0..images-1; None: all. An image does not depend on which others are made. options: see
        Settings.

        Raises ImageError, PlanError, EngineError. If on_step raises, or on Ctrl-C, the edit ends and the error comes
        through.
        """
        job = self._prepare(guide, mask, base, on_step, image_numbers, options)
        try:
            self._worker.submit(job._ticket)
            if on_step is not None:
                for progress in job.watch():
                    on_step(progress.step, progress.steps)
            return job.result()
        except BaseException:
            self._worker.cancel(job._ticket)
            raise

    def submit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        base: Source | None = None,
        on_step: OnStep | None = None,
        image_numbers: Sequence[int] | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """Begin an edit and return at once; arguments and errors of `edit`, except an engine's failure.

        Jobs share the slots: each free slot takes the next image of the next job in turn. on_step is called in the
        editor's thread, so it must be quick (see Job.subscribe); what it raises ends the job and comes from its
        `result`. Raises EngineError if the editor was opened with max_waiting and so many jobs are in flight.
        """
        job = self._prepare(guide, mask, base, on_step, image_numbers, options)
        if on_step is not None:
            job._call_on_step(on_step)
        self._worker.submit(job._ticket)
        return job

    def session(self, photo: Source, place: Source, *, memory: int = MEMORY, **options: Unpack[EditOptions]) -> Session:
        """Open a session for many edits of one photo in one place, each of which recomputes a box around it alone.

        photo: what all guides equal outside the place. place: a mask of the photo's size of all that may change.
        memory: bytes that it may hold; where more are needed its edits are those of `edit`. options: see Settings; they
        are those of all its edits. The bundle needs the part box/ (`sdedit extend --box`). It runs on the CPU, on
        onnxruntime, in float32. Raises ImageError, PlanError, EngineError, BundleError.
        """
        self._worker.check_process()
        return open_session(self, photo, place, memory, Settings(**options))

    def close(self) -> None:
        """Cancel all jobs in flight and let go of the device; afterwards nothing can be submitted.

        It waits for the evaluation under way, but no longer than CLOSE_SECONDS.
        """
        if not self._worker.close(CLOSE_SECONDS):
            LOG.warning("the editor is closed, but its engine has not returned after %g s", CLOSE_SECONDS)

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def settings(self, **options: Unpack[EditOptions]) -> Settings:
        """The options of an edit, completed by what the model suggests and then by the defaults. Raises PlanError."""
        return Settings(**{**self.bundle.defaults, **options})

    def _prepare(
        self,
        guide: Source,
        mask: Source | None,
        base: Source | None,
        on_step: OnStep | None,
        image_numbers: Sequence[int] | None,
        options: EditOptions,
    ) -> Job:
        """A job that is not submitted yet: its arguments are checked, its pictures decoded and its tasks made."""
        self._worker.check_process()
        check_function("on_step", on_step)
        settings = self.settings(**options)
        try:
            return self._make_job(guide, mask, base, settings, image_numbers)
        except MemoryError as error:
            raise EngineError(out_of_memory("the edit", error)) from None

    def _make_job(
        self,
        guide: Source,
        mask: Source | None,
        base: Source | None,
        settings: Settings,
        image_numbers: Sequence[int] | None,
    ) -> Job:
        begun = time.perf_counter()
        numbers = check_image_numbers(image_numbers, settings.images)
        bundle, factor = self.bundle, self.bundle.factor
        self._conditioner.check(settings)
        plan = settings.plan(bundle.schedule, bundle.prediction, "guidance" in bundle.manifest.inputs)
        threshold = float(plan.rows["threshold"].min())

        def check_room(size: tuple[int, int]) -> None:
            self.device.check_shape(bundle.state_shape_at(size[1], size[0]), tile)

        tile = None if settings.tile is None else settings.tile // factor
        canvas, sources = place(guide, mask, base, settings, bundle.image, threshold, check_room)
        told = self._conditioner.tell(settings, canvas.part.height, canvas.part.width)
        guide_state, mask_state = self._codec.encode(canvas.part), self._codec.mask(canvas.mask)
        check_results(canvas, guide_state, len(numbers))
        around = self._codec.conditions(canvas.part, canvas.mask >= threshold)
        conditions = {**told.conditions, **around}
        null = {**told.null_conditions, **(around if bundle.guided else {})}
        tasks = [Task(plan, guide_state, mask_state, int(settings.seed), n, conditions, null, tile) for n in numbers]
        recipe = {**fixed_recipe(bundle, self.device), **sources, **settings.recipe(), **told.recipe}
        LOG.debug("job of %d images: %s", len(tasks), settings)
        return Job(self, self._worker, Ticket(tasks), canvas, self._codec, recipe, begun)

    def box_network(self) -> BoxNetwork:
        """The graphs of the part box/, loaded when a session first needs them; all sessions share them."""
        with self._loading:
            if self._boxes is None:
                self._boxes = BoxNetwork(self.bundle, self.device.engine.threads)
            return self._boxes

    def _load(self, name: str) -> Component:
        """A network of the bundle that runs once an edit, on the engine of this editor."""
        engine = self.device.engine
        return load_component(self.bundle, name, engine.name, engine.threads)


def check_results(canvas: Canvas, state: np.ndarray, images: int) -> None:
    """Raise EngineError if there is no memory for the results of that many images: their states and their pictures."""
    photo = canvas.photo
    pixel = 1 if photo.mode == "L" else 4  # PIL keeps RGB in four bytes
    check_memory(f"images of {photo.height}x{photo.width}", images, state.nbytes + pixel * photo.width * photo.height)
