"""OpenVINO GenAI's image-to-image pipeline as a contender. Its folder is made beforehand: see docs/latent.md."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from ..case import MissingError
from .scenarios import PROMPT, T0, Request


class GivenNoise(openvino_genai.Generator):
    """A source of random numbers: zeros for the autoencoder's distribution, whose mean they are, then the noise."""

    def __init__(self, request: Request) -> None:
        super().__init__()
        self._request = request
        self._drawn = 0

    def randn_tensor(self, shape: Sequence[int]) -> openvino.Tensor:
        self._drawn += 1
        size = tuple(shape)
        return openvino.Tensor(np.zeros(size, np.float32) if self._drawn == 1 else self._request.noise(size))


class GenAI:
    """Implements contenders.Contender."""

    def __init__(self, request: Request) -> None:
        if request.vae:
            raise MissingError("it takes no tiny autoencoder")
        if not Path(request.converted).is_dir():
            raise MissingError(f"{request.converted} is not there: docs/latent.md has the command that makes it")
        self._request = request
        options = {"INFERENCE_NUM_THREADS": request.threads, "INFERENCE_PRECISION_HINT": "f32"}
        self._pipeline = openvino_genai.Image2ImagePipeline(request.converted, "CPU", **options)
        self.version = f"openvino_genai {openvino_genai.__version__}"

    def edit(self, on_step: Callable[[], None]) -> np.ndarray:
        def step_ended(step: int, steps: int, latent: Any) -> bool:
            on_step()
            return False  # go on

        picture = self._pipeline.generate(
            PROMPT,
            openvino.Tensor(self._request.guide()[None]),
            strength=T0,
            num_inference_steps=round(self._request.steps / T0),  # it evaluates those below the strength
            guidance_scale=self._request.guidance,
            generator=GivenNoise(self._request),
            callback=step_ended,
        )
        return np.array(picture.data[0])
