"""A session: many edits of one photo in one place, each of which evaluates the network in a box around the place."""

import time
import weakref
from collections.abc import Sequence
from math import isqrt, prod
from typing import Any, Protocol, Unpack

import numpy as np

from sdedit.errors import EngineError, ImageError, PlanError, out_of_memory
from sdedit.kernels import twin

from ..bundle import Bundle, TensorSpec
from ..codec import PixelCodec
from ..devices.box import BoxDevice
from ..engines.box import Box, BoxNetwork
from ..images import (
    Canvas,
    Picture,
    Source,
    canvas_at,
    edited_pixels,
    feathered,
    open_mask,
    open_picture,
    own_scale_canvas,
)
from ..jobs import LOG, Ticket, Worker
from ..loop import Device, Loop, Task
from ..option import to_integer
from ..settings import EditOptions, Settings
from .arguments import check_image_numbers
from .job import Edit, Job, OnStep, fixed_recipe
from .placing import largest_area

MEMORY = 1 << 30
"""Bytes that a session may hold unless told."""

MARGIN = 8
"""Least distance of the place from the box's border, in pixels, where the picture reaches so far: docs/boxes.md."""

MOST_SHARE = 0.5
"""Largest part of the picture in a box; from there on the whole is hardly slower."""

CLOSE_SECONDS = 5.0


class Owner(Protocol):
    """The parts of an editor that a session needs."""

    bundle: Bundle
    device: Device

    def submit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        on_step: OnStep | None = None,
        image_numbers: Sequence[int] | None = None,
        **options: Unpack[EditOptions],
    ) -> Job:
        """See Editor.submit."""

    def box_network(self) -> BoxNetwork:
        """The graphs of the part box/."""


class Session:
    """Edits of one photo in one place. `Editor.session` opens it; leaving it as a context manager closes it.

    box: the part of the photo in which the network is evaluated: left, top, right, bottom in pixels. None: the place is
    too large, or there is too little memory, and every edit is the editor's own, on the place with its margin.
    """

    def __init__(self, editor: Owner, photo: Picture, place: Picture, change: np.ndarray, settings: Settings) -> None:
        self._editor, self._photo, self._place, self._change = editor, photo, place, change
        self._settings = settings
        self.box: tuple[int, int, int, int] | None = None
        self._canvas: Canvas | None = None
        self._device: BoxDevice | None = None
        self._worker: Worker | None = None

    def edit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        on_step: OnStep | None = None,
        image_numbers: Sequence[int] | None = None,
    ) -> Edit:
        """Edit as Editor.edit does.

        guide: the photo, changed in the place alone. mask: inside the place; None: all of it.

        An edit depends on the session's arguments and on its own, not on the edits before it.
        """
        job = self.submit(guide, mask, on_step=on_step, image_numbers=image_numbers)
        try:
            return job.result()
        except BaseException:
            job.cancel()
            raise

    def submit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        on_step: OnStep | None = None,
        image_numbers: Sequence[int] | None = None,
    ) -> Job:
        """Submit as Editor.submit does. Raises ImageError for what lies outside the place."""
        begun = time.perf_counter()
        picture = open_picture(guide, "guide", self._editor.bundle.image.channels)
        values, source = self._mask(picture, mask)
        if self._worker is None:
            options = self._settings.options()
            options["mask_from"] = "brightness"  # the mask is values by now
            return self._editor.submit(guide, values, on_step=on_step, image_numbers=image_numbers, **options)
        try:
            job = self._job(picture, values, source, image_numbers, begun)
        except MemoryError as error:
            raise EngineError(out_of_memory("the edit", error)) from None
        if on_step is not None:
            job._call_on_step(on_step)
        self._worker.submit(job._ticket)
        return job

    def close(self) -> None:
        """Cancel the edits in flight and free the memory; the editor stays open."""
        if self._worker is not None and not self._worker.close(CLOSE_SECONDS):
            LOG.warning("the session is closed, but its engine has not returned after %g s", CLOSE_SECONDS)

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mask(self, guide: Picture, mask: Source | None) -> tuple[np.ndarray, Picture]:
        """The mask, float32 [H, W], before its border is made soft. Raises ImageError outside the place."""
        size = self._photo.image.size
        if guide.image.size != size:
            raise ImageError(f"guide is {guide.image.size} pixels, the session's photo {size}: they must be equal")
        differs = np.asarray(guide.image) != np.asarray(self._photo.image)
        differs = differs.reshape(*self._change.shape, -1).any(axis=2)
        if (differs & ~self._change).any():
            raise ImageError("guide differs from the session's photo outside the session's place")
        if mask is None:
            return self._change.astype(np.float32), self._place
        values, picture = open_mask(mask, size, self._settings.mask_from)
        if (edited_pixels(values, threshold_of(self._editor, self._settings)) & ~self._change).any():
            raise ImageError("mask edits pixels outside the session's place")
        return values, picture

    def _job(
        self,
        guide: Picture,
        values: np.ndarray,
        mask: Picture,
        image_numbers: Sequence[int] | None,
        begun: float,
    ) -> Job:
        """A job that is not submitted yet."""
        assert self._canvas is not None
        assert self._worker is not None
        assert self._device is not None
        bundle, settings = self._editor.bundle, self._settings
        codec, threshold = PixelCodec(bundle.image.channels), threshold_of(self._editor, settings)
        soft = feathered(values, settings.feather, threshold)
        change = edited_pixels(soft, threshold)
        canvas = canvas_at(guide.image, soft, change, self._canvas.box, bundle.image.multiple_of)
        plan = settings.plan(bundle.schedule, bundle.prediction)
        state, state_mask = codec.encode(canvas.part), codec.mask(canvas.mask)
        numbers = check_image_numbers(image_numbers, settings.images)
        tasks = [Task(plan, state, state_mask, int(settings.seed), number) for number in numbers]
        recipe: dict[str, Any] = {
            **fixed_recipe(bundle, self._device),
            "guide": guide.identity,
            "mask": mask.identity,
            "base": None,
            **settings.recipe(),
            "session": {"photo": self._photo.identity, "place": self._place.identity, "box": list(self.box or ())},
        }
        return Job(self, self._worker, Ticket(tasks), canvas, codec, recipe, begun)

    def _open(self, canvas: Canvas, box: Box, device: BoxDevice) -> None:
        """Evaluate in that box of the canvas from now on."""
        left, top = canvas.box[:2]
        self.box = (left + box.left, top + box.top, left + box.left + box.width, top + box.top + box.height)
        self._canvas, self._device, self._worker = canvas, device, Worker(Loop(device))
        weakref.finalize(self, self._worker.close, CLOSE_SECONDS)


def open_session(editor: Owner, photo: Source, place: Source, memory: int, settings: Settings) -> Session:
    """See Editor.session."""
    bundle = editor.bundle
    memory = to_integer("memory", memory)
    check_settings(editor, settings)
    plan = settings.plan(bundle.schedule, bundle.prediction)
    threshold = threshold_of(editor, settings)
    picture = open_picture(photo, "photo", bundle.image.channels)
    values, mask = open_mask(place, picture.image.size, settings.mask_from)
    change = edited_pixels(values, threshold)
    session = Session(editor, picture, mask, change, settings)
    network = editor.box_network()
    area = largest_area(settings, bundle.image)
    multiple = bundle.image.multiple_of
    side = isqrt(area) // multiple * multiple
    canvas = own_scale_canvas(
        picture.image, change.astype(np.float32), (side, side), multiple, area, settings.context, threshold
    )
    height, width = canvas.mask.shape
    box = box_around(canvas.mask, network.part.unit)
    needed = settings.images * len(plan.rows) * network.part.row_bytes((box.height, box.width), (height, width))
    reduced = canvas.inner != (canvas.box[2] - canvas.box[0], canvas.box[3] - canvas.box[1])
    share = box.height * box.width / prod((height, width))
    if reduced or share > MOST_SHARE or needed > memory:
        LOG.info(
            "session: no box: %.0f %% of the picture, %.0f of %.0f MiB", 100 * share, needed / 2**20, memory / 2**20
        )
        return session
    shape = (bundle.image.channels, height, width)
    inputs = {**bundle.inputs, "x": TensorSpec(bundle.inputs["x"].dtype, shape)}
    codec = PixelCodec(bundle.image.channels)
    device = BoxDevice(network, inputs, twin(), box, codec.encode(canvas.part), codec.mask(canvas.mask))
    session._open(canvas, box, device)
    return session


def check_settings(editor: Owner, settings: Settings) -> None:
    """Raise PlanError or EngineError for what a session does not do."""
    if editor.device.name != "cpu":
        raise EngineError(f"device {editor.device.name}: a session runs on device cpu")
    if settings.keep not in ("fresh", "fixed"):
        raise PlanError(f"keep {settings.keep}: a session needs fresh or fixed, which keep what lies outside the mask")
    for name in ("size", "tile", "label"):
        if getattr(settings, name) is not None:
            raise PlanError(f"{name} {getattr(settings, name)}: a session takes none")


def threshold_of(editor: Owner, settings: Settings) -> float:
    """The smallest mask value that edits a pixel."""
    plan = settings.plan(editor.bundle.schedule, editor.bundle.prediction)
    return float(plan.rows["threshold"].min())


def box_around(mask: np.ndarray, unit: int) -> Box:
    """The box around a mask's pixels with MARGIN, in multiples of `unit`. mask: float32 [H, W], not all 0."""
    ends = []
    for axis in (1, 0):
        at = np.flatnonzero((mask > 0).any(axis=axis))
        low = max(int(at[0]) - MARGIN, 0) // unit * unit
        high = min(-(-(int(at[-1]) + 1 + MARGIN) // unit) * unit, mask.shape[1 - axis] // unit * unit)
        ends.append((low, high - low))
    (top, height), (left, width) = ends
    return Box(top, left, height, width)
