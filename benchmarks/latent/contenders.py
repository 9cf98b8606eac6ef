"""The contenders by name. Opening one imports only its own packages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .scenarios import Request


class Contender(Protocol):
    """A loaded model. version: of the packages that run it."""

    version: str

    def edit(self, on_step: Callable[[], None]) -> np.ndarray:
        """Make the edit: uint8 [H, W, 3]. on_step: called when a step is done."""


@dataclass(frozen=True)
class Spec:
    """A contender that can be opened.

    ours: it is this project's runtime. slow_start: it compiles for minutes first. needs: packages that it imports.
    """

    precision: str
    open: Callable[[Request], Contender]
    ours: bool = False
    slow_start: bool = False
    needs: Sequence[str] = ()


def our(engine: str, precision: str) -> Spec:
    def build(request: Request) -> Contender:
        from .ours import Ours

        return Ours(request, engine, precision)

    return Spec(precision, build, ours=True, needs=(engine, "tokenizers"))


def diffusers_peer(compiled: bool) -> Spec:
    def build(request: Request) -> Contender:
        from .diffusers_peer import Diffusers

        return Diffusers(request, compiled)

    return Spec("float32", build, slow_start=compiled, needs=("torch", "diffusers", "transformers"))


def onnxruntime_peer() -> Spec:
    def build(request: Request) -> Contender:
        from .onnxruntime_peer import OnnxRuntimeLoop

        return OnnxRuntimeLoop(request)

    return Spec("float32", build, needs=("onnxruntime", "tokenizers"))


def genai_peer() -> Spec:
    def build(request: Request) -> Contender:
        from .genai_peer import GenAI

        return GenAI(request)

    return Spec("float32, bytes cut", build, needs=("openvino", "openvino_genai"))


DIFFUSERS = "diffusers, float32"
"""The contender that the others' pictures are compared with, and that speed-ups are measured against."""

CONTENDERS: dict[str, Spec] = {
    "sdedit, onnxruntime, float32": our("onnxruntime", "float32"),
    "sdedit, openvino, float32": our("openvino", "float32"),
    DIFFUSERS: diffusers_peer(compiled=False),
    "onnxruntime and a numpy loop": onnxruntime_peer(),
    "OpenVINO GenAI, float32": genai_peer(),
    "diffusers, torch.compile, float32": diffusers_peer(compiled=True),
}
"""In the order in which they run: where time ends, the last ones are dropped."""
