"""The plainest loop without torch: onnxruntime's sessions with their defaults, DDIM in numpy, guidance in one batch."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from sdedit.runtime.bundle import DECODER, ENCODER, NETWORK, read_bundle
from sdedit.runtime.engines.importing import import_onnxruntime
from sdedit.runtime.prompts import Prompts
from sdedit.runtime.schedule import CLEAN

from .scenarios import PROMPT, T0, Request

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class OnnxRuntimeLoop:
    """Implements contenders.Contender."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._onnxruntime = import_onnxruntime()
        self.version = f"onnxruntime {self._onnxruntime.__version__}"
        self._bundle = read_bundle(request.bundle)
        self._network, self._encoder, self._decoder = map(self._session, (NETWORK, ENCODER, DECODER))
        self._prompts = Prompts(self._bundle, self._session)

    def _session(self, name: str) -> Run:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._request.threads
        path = str(Path(self._request.bundle) / name)
        session = self._onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda inputs: dict(zip(names, session.run(None, dict(inputs)), strict=True))

    def edit(self, on_step: Callable[[], None]) -> np.ndarray:
        """DDIM with eta 0 (Song et al. 2021, equation 12)."""
        request, schedule = self._request, self._bundle.schedule
        picture = request.guide().astype(np.float32).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
        x = self._encoder({"image": picture})["latent"]
        context = self._context()
        levels = [*map(schedule.level, schedule.visit(T0, request.steps)), CLEAN]
        x = np.float32(levels[0].alpha) * x + np.float32(levels[0].sigma) * request.noise(x.shape)
        for now, then in pairwise(levels):
            eps = self._predict(x, now.time, context)
            clean = (x - np.float32(now.sigma) * eps) / np.float32(now.alpha)
            x = np.float32(then.alpha) * clean + np.float32(then.sigma) * eps
            on_step()
        image = self._decoder({"latent": x})["image"][0].transpose(1, 2, 0)
        return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)

    def _context(self) -> np.ndarray:
        """The text's embedding, float32 [1, L, D], or with guidance the empty text's before it, [2, L, D]."""
        texts = [PROMPT] if self._request.guidance == 1 else ["", PROMPT]
        embedded = self._prompts.embed({text: self._prompts.tokens("prompt", text) for text in texts})
        return np.stack([embedded[text]["context"] for text in texts])

    def _predict(self, x: np.ndarray, time: float, context: np.ndarray) -> np.ndarray:
        """The noise in x, guided."""
        batch = len(context)
        times = np.full(batch, time, np.float32)
        out = self._network({"x": np.repeat(x, batch, axis=0), "time": times, "context": context})["out"]
        if batch == 1:
            return out
        return out[:1] + np.float32(self._request.guidance) * (out[1:] - out[:1])
