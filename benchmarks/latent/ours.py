"""This project's runtime as a contender."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sdedit.errors import EngineError
from sdedit.runtime import Editor

from ..case import MissingError
from .scenarios import PROMPT, SAMPLER, SEED, T0, Request


class Ours:
    """Implements contenders.Contender: an Editor, as products open it."""

    def __init__(self, request: Request, engine: Any, precision: Any) -> None:
        self._request = request
        try:
            self._editor = Editor.open(request.bundle, engine=engine, precision=precision, threads=request.threads)
        except EngineError as error:
            if precision == "float32":  # which every bundle has
                raise
            raise MissingError(str(error).replace(request.bundle, "the bundle")) from None
        self.version = f"{engine} {self._editor.device.engine.version}"

    def edit(self, on_step: Callable[[], None]) -> np.ndarray:
        request = self._request
        job = self._editor.submit(
            request.guide(),
            prompt=PROMPT,
            guidance=request.guidance,
            t0=T0,
            steps=request.steps,
            sampler=SAMPLER,
            seed=SEED,
            on_step=lambda step, steps: on_step(),
        )
        return np.asarray(job.result().images[0].pil)
