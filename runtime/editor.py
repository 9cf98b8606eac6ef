"""The one door for products: open a bundle once, edit as often as you like."""

import json
import math
import operator
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdedit import __version__
from sdedit.errors import EngineError, PlanError
from sdedit.kernels import twin

from .bundle import SHIPPED, Bundle, read_bundle
from .devices.cpu import CpuDevice
from .engines import open_engine
from .images import (
    Canvas,
    Source,
    check_placement,
    masked_canvas,
    open_mask,
    open_picture,
    paste,
    save_png,
    whole_canvas,
)
from .loop import Loop, Task
from .plan import SAMPLERS, Plan, make_plan

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


class Editor:
    """A bundle on an engine and a device. `Editor.open` makes one; `edit` may be called from several threads."""

    def __init__(self, bundle: Bundle, device: CpuDevice) -> None:
        self.bundle = bundle
        self.device = device
        self._loop = Loop(device)
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | Path | None = None,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        slots: int = 1,
    ) -> "Editor":
        """Load and verify a bundle (None: the shipped model) on this machine's CPU.

        engine, precision: by name, or "auto". threads: of the engine; None: the processors there are. slots: images in
        flight at once. Raises BundleError, EngineError.
        """
        if slots < 1:
            raise EngineError(f"slots {slots} is not at least 1")
        loaded = read_bundle(SHIPPED if bundle is None else bundle)
        network = open_engine(loaded, engine=engine, precision=precision, threads=threads)
        return cls(loaded, CpuDevice(network, loaded.shape, slots, twin()))

    def edit(
        self,
        guide: Source,
        mask: Source | None = None,
        *,
        t0: float = 0.5,
        steps: int = 25,
        sampler: str = "ancestral",
        eta: float | None = None,
        keep: str = "fresh",
        repeats: int = 1,
        seed: int = 0,
        images: int = 1,
        clip: float = 1.0,
        fit: str = "crop",
        context: float = 0.25,
    ) -> Edit:
        """Noise the guide to t0 and bring it back to a clean image: SDEdit, Algorithms 2 to 5.

        guide: strokes, strokes over a photo, or a composite. mask: white = may change, grey = from that fraction of t0
        on, black = stays byte for byte; of the guide's size. t0 in (0, 1]: little keeps the guide, much is realistic.
        steps, sampler, eta, keep, repeats, clip: see make_plan. seed: 64 bits; images: how many to make of it, each
        with noise of its own. fit (without a mask): how the guide is brought to the network's size. context (with one):
        how far around the mask the network sees, in fractions of the mask's size.

        Raises ImageError, PlanError, EngineError.
        """
        started = time.perf_counter()
        seed, images, steps, repeats = map(
            _integer, ("seed", "images", "steps", "repeats"), (seed, images, steps, repeats)
        )
        t0, clip, context = map(_number, ("t0", "clip", "context"), (t0, clip, context))
        eta = None if eta is None else _number("eta", eta)
        if not 0 <= seed < 2**64:
            raise PlanError(f"seed {seed} is not in 0..2^64-1")
        if not 1 <= images <= 2**32:
            raise PlanError(f"images {images} is not in 1..2^32")
        check_placement(fit, context)
        plan = make_plan(
            self.bundle.schedule,
            self.bundle.prediction,
            t0=t0,
            steps=steps,
            sampler=sampler,
            eta=eta,
            keep=keep,
            repeats=repeats,
            clip=clip,
        )
        canvas, sources = self._open(guide, mask, fit, context, float(plan.rows["threshold"].min()))
        recipe = {
            **self._settings(),
            **sources,
            "t0": t0,
            "steps": steps,
            "sampler": sampler,
            "eta": SAMPLERS[sampler].eta if eta is None else eta,
            "keep": keep,
            "repeats": repeats,
            "seed": seed,
            "images": images,
            "clip": clip if math.isfinite(clip) else "inf",
            "fit": fit,
            "context": context,
        }
        prepared = time.perf_counter()
        with self._lock:
            admitted = time.perf_counter()
            states = self._run(plan, canvas, seed, images)
        looped = time.perf_counter()
        results = [
            EditedImage(paste(canvas, state, plan.keeps_exactly), {**recipe, "image": index})
            for index, state in enumerate(states)
        ]
        timings = {
            "prepare": prepared - started,
            "wait": admitted - prepared,
            "loop": looped - admitted,
            "finish": time.perf_counter() - looped,
            "evaluations": len(plan.rows) * images,
        }
        return Edit(results, recipe, timings)

    def _open(
        self, guide: Source, mask: Source | None, fit: str, context: float, threshold: float
    ) -> tuple[Canvas, dict[str, Any]]:
        """What is edited, and what the recipe says of where it came from."""
        picture = open_picture(guide, "guide", self.bundle.shape[0])
        if mask is None:
            canvas = whole_canvas(picture.image, self.bundle.shape, fit)
            return canvas, {"guide": picture.identity, "mask": None}
        values, mask_picture = open_mask(mask, picture.image.size)
        canvas = masked_canvas(picture.image, values, self.bundle.shape, context, threshold)
        return canvas, {"guide": picture.identity, "mask": mask_picture.identity}

    def _settings(self) -> dict[str, Any]:
        """The recipe's part that is the same for every edit of this editor."""
        engine = self.device.engine
        return {
            "version": __version__,
            "bundle": {"name": self.bundle.name, "sha256": self.bundle.sha256},
            "device": self.device.name,
            "kernels": self.device.twin.name,
            "engine": {
                "name": engine.name,
                "version": engine.version,
                "precision": engine.precision,
                "threads": engine.threads,
            },
        }

    def _run(self, plan: Plan, canvas: Canvas, seed: int, images: int) -> list[np.ndarray]:
        waiting = iter(range(images))
        states: dict[int, np.ndarray] = {}
        try:
            while len(states) < images:
                while not self._loop.full and (image := next(waiting, None)) is not None:
                    self._loop.admit(Task(plan, canvas.guide, canvas.mask, seed, image))
                for task, state in self._loop.step():
                    states[task.image] = state
        finally:
            self._loop.clear()
        return [states[image] for image in range(images)]


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise PlanError(f"{name} {value!r} is not an integer") from None


def _number(name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise PlanError(f"{name} {value!r} is not a number") from None
