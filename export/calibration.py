"""Edits to calibrate and to judge a quantised network on: strokes of the network's own pictures, masked or not.

A bundle has no pictures, so the network paints them: what it samples from noise is what it was trained on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from sdedit.kernels import twin
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.codec import codec_for
from sdedit.runtime.devices.cpu import CpuDevice
from sdedit.runtime.engines import Engine, Evaluate
from sdedit.runtime.loop import Loop, Task
from sdedit.runtime.plan import make_plan

SAMPLE_STEPS = 20
COLOURS = 6
T0S = (0.3, 0.5, 0.8, 1.0)
"""Of the edits that are calibrated on: together they visit every noise level."""


@dataclass(frozen=True)
class Request:
    """One edit. mask: float32 [H, W]; guide: float32 [C, H, W]."""

    guide: np.ndarray
    mask: np.ndarray
    t0: float
    seed: int


def sample_guides(bundle: Bundle, engine: Engine, count: int, seed: int) -> list[np.ndarray]:
    """Strokes of `count` pictures that the network samples from noise; float32 [C, H, W]."""
    everywhere = np.ones(bundle.state_shape[1:], np.float32)
    nothing = np.zeros(bundle.state_shape, np.float32)
    requests = [Request(nothing, everywhere, 1.0, seed + image) for image in range(count)]
    codec = codec_for(bundle)
    return [codec.encode(paint(codec.decode(x))) for x in run_edits(bundle, engine, requests, SAMPLE_STEPS)]


def paint(picture: Image.Image) -> Image.Image:
    """Strokes: a median filter and six colours, as the SDEdit paper's simulation (appendix D.2) is read."""
    size = max(3, round(picture.height * 23 / 256) // 2 * 2 + 1)
    smooth = picture.filter(ImageFilter.MedianFilter(size)).convert("RGB")
    return smooth.quantize(COLOURS, Image.Quantize.MEDIANCUT).convert(picture.mode)


def requests_of(guides: Sequence[np.ndarray], t0s: Sequence[float], seed: int) -> list[Request]:
    """Every guide at every t0, by turns everywhere and in the middle alone."""
    requests = []
    for index, guide in enumerate(guides):
        _, height, width = guide.shape
        for number, t0 in enumerate(t0s):
            mask = np.ones((height, width), np.float32)
            if (index + number) % 2:
                mask[:] = 0
                mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
            requests.append(Request(guide, mask, t0, seed + index))
    return requests


def run_edits(bundle: Bundle, engine: Engine, requests: Sequence[Request], steps: int) -> list[np.ndarray]:
    """Results, float32 [C, H, W], of ancestral edits in `steps` network evaluations, or as many levels as there are."""
    loop = Loop(CpuDevice(engine, bundle.inputs, 1, twin()))
    results = []
    for number, request in enumerate(requests):
        levels = bundle.schedule.visit(request.t0, 1)[0]
        plan = make_plan(
            bundle.schedule, bundle.prediction, t0=request.t0, steps=min(steps, levels), sampler="ancestral"
        )
        loop.admit(Task(plan, request.guide, request.mask, request.seed, number))
        while loop.busy:
            results += [x for _, x in loop.step()]
    return results


class Recorder:
    """An engine that keeps a copy of all that its network is given, by the inputs' names."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name, self.precision, self.version = engine.name, engine.precision, engine.version
        self.batch, self.threads = engine.batch, engine.threads
        self.visited: list[dict[str, np.ndarray]] = []

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        evaluate = self._engine.bind(inputs, out)

        def record() -> None:
            self.visited.append({name: array.copy() for name, array in inputs.items()})
            evaluate()

        return record
