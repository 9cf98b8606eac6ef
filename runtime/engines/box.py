"""The network on ONNX Runtime, in float32, whole or for a box of the picture alone: the bundle's part box/."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from ..bundle.box import BOX_PASS, FOLDER, WHOLE_PASS, BoxPart, read_box_part
from .base import OUT
from .importing import import_onnxruntime
from .onnxruntime import open_session

Kept = Mapping[str, np.ndarray]
"""The values that one whole pass leaves for a box, by name."""


@dataclass(frozen=True)
class Box:
    """A rectangle of the picture in pixels, with a corner and sides that are multiples of BoxPart.unit."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class BoxNetwork:
    """Both graphs, each loaded once, with its own copy of the weights. Batch 1.

    Calls may come from one thread at a time. part: what the bundle says about them.
    """

    name = "onnxruntime"
    precision = "float32"
    batch = 1

    def __init__(self, bundle: Bundle, threads: int) -> None:
        """Raises EngineError if the bundle has no part box/ or its graphs cannot be run, BundleError for damage."""
        self.part: BoxPart = read_box_part(bundle)
        self.version = str(import_onnxruntime().__version__)
        self.threads = threads
        self._whole = open_session(bundle.read_network(f"{FOLDER}/{WHOLE_PASS}"), threads)
        self._box = open_session(bundle.read_network(f"{FOLDER}/{BOX_PASS}"), threads)
        inputs = {value.name for value in self._box.get_inputs()}
        outputs = {value.name for value in self._whole.get_outputs()}
        kept = set(self.part.kept)
        if inputs != {"x", "time", "pos", "share"} | kept or outputs != {OUT} | kept:
            raise EngineError(f"bundle {bundle.path}: the graphs in {FOLDER} have not the values that it lists")

    def whole(self, x: np.ndarray, time: np.ndarray, box: Box) -> tuple[np.ndarray, Kept]:
        """The network's output, and what a box pass needs. x, out: float32 [1, C, H, W]. time: float32 [1]."""
        feeds = {"x": x, "time": time, **_place(box, x.shape), "size": np.array([box.height, box.width], np.int64)}
        names = [OUT, *self.part.kept]
        values = dict(zip(names, _run(self._whole, names, feeds), strict=True))
        return values.pop(OUT), values

    def box(self, x: np.ndarray, time: np.ndarray, box: Box, kept: Kept) -> np.ndarray:
        """The network's output in the box, float32 [1, C, h, w]. x: float32 [1, C, H, W], of which it reads the box."""
        part = np.ascontiguousarray(x[:, :, *box.slices])
        out: np.ndarray = _run(self._box, [OUT], {"x": part, "time": time, **_place(box, x.shape), **kept})[0]
        return out


def _place(box: Box, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    share = box.height * box.width / prod(shape[2:])
    return {"pos": np.array([box.top, box.left], np.int64), "share": np.array([share], np.float32)}


def _run(session: Any, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        values: list[np.ndarray] = session.run(names, feeds)
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise EngineError(f"onnxruntime failed in mid-edit: {reason(error)}") from None
    return values
