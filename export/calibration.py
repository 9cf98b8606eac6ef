"""Edits to calibrate and to judge a quantised network on: stroke paintings of its own samples, with masks and without.

A bundle holds no pictures, so the network makes them: its samples from noise look like its training data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from sdedit.kernels import twin
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.codec import to_image
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import Engine, Evaluate
from sdedit.runtime.images.strokes import stroke_painting

SAMPLER: Final = "ancestral"
SAMPLE_STEPS = 20
T0S = (0.3, 0.5, 0.8, 1.0)
"""t0 of the edits for calibration; together they visit every noise level."""


@dataclass(frozen=True, eq=False)
class Request:
    """One edit. guide: an image of the network's size. mask: bool [H, W], or None to edit the whole image."""

    guide: Image.Image
    mask: np.ndarray | None
    t0: float
    seed: int


def open_editor(bundle: Bundle, engine: Engine) -> Editor:
    """An editor on the CPU whose network is `engine`."""
    return Editor(bundle, CpuDevice(engine, bundle.inputs, 1, twin(), guided=bundle.guided))


def sample_guides(editor: Editor, count: int, seed: int) -> list[Image.Image]:
    """Stroke paintings of `count` samples from pure noise."""
    grey = to_image(np.zeros(editor.bundle.state_shape, np.float32))
    steps = fewer_steps(editor, 1.0, SAMPLE_STEPS)
    edit = editor.edit(grey, t0=1.0, steps=steps, sampler=SAMPLER, seed=seed, images=count)
    return [paint(image.pil) for image in edit.images]


def paint(picture: Image.Image) -> Image.Image:
    """A stroke painting, grey for a grey picture."""
    return stroke_painting(picture.convert("RGB")).convert(picture.mode)


def make_requests(guides: Sequence[Image.Image], t0s: Sequence[float], seed: int) -> list[Request]:
    """Every guide at every t0, in turns as a whole and in the middle alone; the seeds are `seed`, `seed` + 1, ..."""
    requests: list[Request] = []
    for index, guide in enumerate(guides):
        for number, t0 in enumerate(t0s):
            mask = middle_mask(guide) if (index + number) % 2 else None
            requests.append(Request(guide, mask, t0, seed + len(requests)))
    return requests


def middle_mask(guide: Image.Image) -> np.ndarray:
    """Half of each side, in the middle: bool [H, W]."""
    mask = np.zeros((guide.height, guide.width), bool)
    top, left = guide.height // 4, guide.width // 4
    mask[top : guide.height - top, left : guide.width - left] = True
    return mask


def run_edits(editor: Editor, requests: Sequence[Request], steps: int) -> list[np.ndarray]:
    """The results, uint8 [H, W] or [H, W, 3], of edits in `steps` network evaluations, or one per level if fewer."""
    results = []
    for request in requests:
        edit = editor.edit(
            request.guide,
            request.mask,
            t0=request.t0,
            steps=fewer_steps(editor, request.t0, steps),
            sampler=SAMPLER,
            seed=request.seed,
        )
        results.append(np.asarray(edit.images[0].pil))
    return results


def fewer_steps(editor: Editor, t0: float, steps: int) -> int:
    """`steps`, or the number of levels up to t0 if that is smaller."""
    return min(steps, int(editor.bundle.schedule.visit(t0, 1)[0]))


class Recorder:
    """An engine that keeps a copy of its inputs, by name, at every evaluation of another engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.precision, self.version = engine.name, engine.precision, engine.version
        self.batch, self.threads = engine.batch, engine.threads
        self.visited: list[dict[str, np.ndarray]] = []

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """See engines.Engine."""
        evaluate = self._engine.bind(inputs, out)

        def record() -> None:
            self.visited.append({name: array.copy() for name, array in inputs.items()})
            evaluate()

        return record
