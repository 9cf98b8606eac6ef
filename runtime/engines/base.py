"""The interfaces of engines: a loaded network on a processor, or on a GPU."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np

from sdedit.errors import EngineError

from ..bundle import Bundle

OUT = "out"
"""Name of the network's output: float32, of the shape of x."""

Evaluate = Callable[[], None]
"""One evaluation of the network on the buffers that it was bound to."""


class Engine(Protocol):
    """A loaded network: the inputs of Bundle.inputs with a batch in front, and the output float32 [B, C, H, W].

    Height and width are those of the arrays that it is bound to, which may be any that the bundle's `image` allows.
    precision, threads and version are read back from the engine: they are what it runs, not what was asked for.
    """

    name: str
    precision: str
    batch: int
    threads: int
    version: str

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """Tie the network to these buffers, once; each call of the function returned reads and writes them in place.

        inputs: every input of the network by name, C-contiguous; they and `out` must outlive the function.
        """


@dataclass(frozen=True)
class DeviceArray:
    """Values in a GPU's memory, C-contiguous. address: in bytes."""

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype = np.dtype(np.float32)  # noqa: RUF009 - a dtype never changes

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


Enqueue = Callable[[int], None]
"""Put one evaluation of the network, on the arrays that it was bound to, on the CUDA stream of that handle."""


class CudaEngine(Protocol):
    """A loaded network for the CUDA device: an Engine on the GPU's memory and on a stream.

    capturable: whether its evaluations may become part of a CUDA graph. threads: None, since the GPU has its own.
    """

    name: str
    precision: str
    batch: int
    threads: int | None
    version: str
    capturable: bool

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Tie the network to these arrays; the function returned may be called, and captured, any number of times."""

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise EngineError unless it takes states of that shape, C, H, W. Any thread may call it."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Free memory that it holds on the GPU for states of that shape, whose arrays are gone."""

    def close(self) -> None:
        """Free the memory that it holds on the GPU."""


Signature = Mapping[str, tuple[np.dtype | None, Sequence[object]]]
"""Inputs and output by name: dtype (None if numpy has none) and shape; a free size is not an integer."""


def check_signature(bundle: Bundle, found: Signature) -> None:
    """Raise EngineError unless the network's inputs and output are the bundle's."""
    free = bundle.image.free
    image = ("B", bundle.state_shape[0], "H", "W") if free else ("B", *bundle.state_shape)
    wanted = {name: (spec.dtype, ("B", *spec.shape)) for name, spec in bundle.inputs.items()}
    wanted |= {name: (np.dtype(np.float32), image) for name in ("x", OUT)}
    fits = found.keys() == wanted.keys() and all(
        found[name][0] == dtype and sizes_fit(found[name][1], shape) for name, (dtype, shape) in wanted.items()
    )
    if not fits:
        raise EngineError(f"{bundle.network} has {_described(found)}; the bundle says {_described(wanted)}")


def sizes_fit(found: Sequence[object], wanted: Sequence[object]) -> bool:
    """Whether a shape with free sizes can be the wanted one; the first size, the batch, is any."""
    return len(found) == len(wanted) and all(
        not isinstance(size, int) or size == want for size, want in zip(found[1:], wanted[1:], strict=True)
    )


def _described(tensors: Signature) -> str:
    return ", ".join(f"{dtype or 'unknown'} {name}{list(shape)}" for name, (dtype, shape) in sorted(tensors.items()))
