"""Engines evaluate a bundle's network. Importing this module imports none of them."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle

ENGINES = ("onnxruntime",)
PRECISIONS = ("float32",)

Evaluate = Callable[[], None]
"""One evaluation of the network on the buffers it was bound to."""


class Engine(Protocol):
    """A loaded network: float32 x [B, C, H, W] and time [B] in, float32 [B, C, H, W] out."""

    name: str
    precision: str
    batch: int
    threads: int
    version: str

    def bind(self, x: np.ndarray, time: np.ndarray, out: np.ndarray) -> Evaluate:
        """Tie the network to these buffers, once; each call of what is returned reads and writes them in place."""


def open_engine(bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int | None = None) -> Engine:
    """Load the bundle's network. "auto" is onnxruntime in float32; threads default to the processors there are.

    Raises EngineError for an unknown or missing engine or precision, and for a network that the engine refuses.
    """
    if engine not in ("auto", *ENGINES):
        raise EngineError(f"engine {engine!r} is not one of auto, {', '.join(ENGINES)}")
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads {threads} is not at least 1")
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, threads)
