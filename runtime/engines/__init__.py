"""Engines evaluate a bundle's network. Importing this module imports none of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle

ENGINES = ("onnxruntime", "openvino")
"""In the order in which "auto" takes them."""

PRECISIONS = ("float32", "bfloat16", "int8")

MAX_THREADS = 1024
"""Above, engines fail in ways of their own."""

RANKS = {"x": 4, "time": 1, "out": 4}
"""Of the network's inputs and output, by name."""

Evaluate = Callable[[], None]
"""One evaluation of the network on the buffers it was bound to."""


class Engine(Protocol):
    """A loaded network: float32 x [B, C, H, W] and time [B] in, float32 [B, C, H, W] out.

    precision, threads, version: what it runs, read back from the engine, not what was asked for.
    """

    name: str
    precision: str
    batch: int
    threads: int
    version: str

    def bind(self, x: np.ndarray, time: np.ndarray, out: np.ndarray) -> Evaluate:
        """Tie the network to these buffers, once; each call of what is returned reads and writes them in place."""


def open_engine(bundle: Bundle, *, engine: str = "auto", precision: str = "auto", threads: int | None = None) -> Engine:
    """Load the bundle's network. What is left open is chosen by engines.choice: see there.

    Raises EngineError for an unknown or missing engine or precision, and for a network that the engine refuses.
    """
    check_request(engine, precision, threads)
    from .choice import choose

    chosen = choose(bundle, engine, precision, threads)
    return load_engine(bundle, chosen.engine, chosen.precision, chosen.threads)


def load_engine(bundle: Bundle, engine: str, precision: str, threads: int) -> Engine:
    """The engine of that name, as told in everything. Raises EngineError as open_engine."""
    if engine == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(bundle, precision, threads)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(bundle, precision, threads)


def check_request(engine: str, precision: str, threads: int | None) -> None:
    if engine not in ("auto", *ENGINES):
        raise EngineError(f"engine {engine!r} is not one of auto, {', '.join(ENGINES)}")
    if precision not in ("auto", *PRECISIONS):
        raise EngineError(f"precision {precision!r} is not one of auto, {', '.join(PRECISIONS)}")
    if engine == "onnxruntime" and precision not in ("auto", "float32"):
        raise EngineError(f"precision {precision!r} is not one that engine onnxruntime runs: float32")
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise EngineError(f"threads {threads} is not in 1..{MAX_THREADS}")


def check_signature(bundle: Bundle, found: Mapping[str, tuple[bool, Sequence[object]]]) -> None:
    """Raise EngineError unless the network is the bundle's. found: name -> (is float32, shape) of inputs and output."""
    said = {name: list(shape) for name, (_, shape) in found.items()}
    if {name: len(shape) for name, shape in said.items()} != RANKS or not all(kind for kind, _ in found.values()):
        raise EngineError(f"{bundle.network} has {said}; a bundle's network has float x[B,C,H,W], time[B] -> out")
    for name in ("x", "out"):
        sizes = zip(said[name][1:], bundle.shape, strict=True)
        if any(isinstance(size, int) and size != want for size, want in sizes):
            raise EngineError(f"{bundle.network}: {name} is {said[name]}, the bundle says {list(bundle.shape)}")
