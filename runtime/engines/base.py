"""What an engine is: a loaded network on a processor, or on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

LABEL = "label"
"""The input that a network with classes has besides, of rank 1 and integers of 64 bits; all others are float32."""

Evaluate = Callable[[], None]
"""One evaluation of the network on the buffers it was bound to."""


class Engine(Protocol):
    """A loaded network: float32 x [B, C, H, W] and time [B] in, float32 [B, C, H, W] out; int64 label [B] with classes.

    precision, threads, version: what it runs, read back from the engine, not what was asked for.
    """

    name: str
    precision: str
    batch: int
    threads: int
    version: str

    def bind(self, x: np.ndarray, time: np.ndarray, out: np.ndarray, label: np.ndarray | None = None) -> Evaluate:
        """Tie the network to these buffers, once; each call of what is returned reads and writes them in place.

        label: for networks with classes, and for them alone.
        """


@dataclass(frozen=True)
class DeviceArray:
    """float32 values in a GPU's memory, C-contiguous."""

    address: int
    shape: tuple[int, ...]


Enqueue = Callable[[int], None]
"""Put one evaluation of the network, on what it was bound to, on the CUDA stream of that handle."""


class CudaEngine(Protocol):
    """A network for the CUDA device: as Engine, on the GPU's memory and on a stream.

    capturable: whether what it enqueues may become part of a CUDA graph. threads: None, the GPU has its own.
    """

    name: str
    precision: str
    batch: int
    threads: int | None
    version: str
    capturable: bool

    def bind(self, x: DeviceArray, time: DeviceArray, out: DeviceArray) -> Enqueue:
        """Tie the network to these arrays; what is returned may be called, and captured, any number of times."""

    def close(self) -> None:
        """Let go of what it holds on the GPU."""


def check_signature(bundle: Bundle, found: Mapping[str, tuple[bool, Sequence[object]]]) -> None:
    """Raise EngineError unless the network is the bundle's.

    found: name -> (is float32, or int64 for LABEL; shape) of inputs and output.
    """
    said = {name: list(shape) for name, (_, shape) in found.items()}
    ranks = {**RANKS, **({LABEL: 1} if bundle.classes else {})}
    if {name: len(shape) for name, shape in said.items()} != ranks or not all(kind for kind, _ in found.values()):
        labels = ", int64 label[B]" if bundle.classes else ""
        raise EngineError(f"{bundle.network} has {said}; this network has float x[B,C,H,W], time[B]{labels} -> out")
    for name in ("x", "out"):
        sizes = zip(said[name][1:], bundle.shape, strict=True)
        if any(isinstance(size, int) and size != want for size, want in sizes):
            raise EngineError(f"{bundle.network}: {name} is {said[name]}, the bundle says {list(bundle.shape)}")
