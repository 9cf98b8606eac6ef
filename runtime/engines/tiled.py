"""A state larger than the network takes at once, evaluated as overlapping tiles whose outputs are blended.

Each pixel's output is a weighted mean over the tiles that hold it, taken before the step, as MultiDiffusion does
(Bar-Tal et al. 2023). All tiles share the state and its noise, so they agree where they meet.
"""

from collections.abc import Mapping

import numpy as np

from ..bundle import KNOWN
from .base import Engine, Evaluate

OVERLAP = 4
"""Two neighbouring tiles share at least the OVERLAP-th part of a side."""


class TiledEngine:
    """Implements engines.Engine for states of any size, in memory for one tile.

    tile: height and width of a tile; a side of the state that is shorter is evaluated as it is. multiple_of: tiles
    begin at multiples of it.
    """

    def __init__(self, engine: Engine, tile: int, multiple_of: int) -> None:
        self._engine = engine
        self._tile = tile
        self._multiple_of = multiple_of
        self.name, self.precision, self.version = engine.name, engine.precision, engine.version
        self.batch, self.threads = engine.batch, engine.threads

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """Implements engines.Engine."""
        whole = {name: inputs[name] for name in ("x", KNOWN) if name in inputs}
        x = whole["x"]
        height, width = (min(side, self._tile) for side in x.shape[2:])
        tops, lefts = (starts(side, self._tile, self._multiple_of) for side in x.shape[2:])
        parts = {name: np.empty((*array.shape[:2], height, width), np.float32) for name, array in whole.items()}
        found = np.empty_like(parts["x"])
        evaluate_tile = self._engine.bind({**inputs, **parts}, found)
        weight = np.outer(ramp(height), ramp(width))
        places = [np.s_[..., top : top + height, left : left + width] for top in tops for left in lefts]
        total = np.zeros(x.shape[2:], np.float32)
        for place in places:
            total[place] += weight

        def evaluate() -> None:
            out[...] = 0
            for place in places:
                for name, array in whole.items():
                    parts[name][...] = array[place]
                evaluate_tile()
                np.multiply(found, weight, out=found)
                out[place] += found
            np.divide(out, total, out=out)

        return evaluate


def starts(side: int, tile: int, multiple_of: int) -> list[int]:
    """Where tiles begin along a side: at 0, at side - tile, and evenly between, at multiples of multiple_of."""
    if side <= tile:
        return [0]
    stride = max((tile - -(-tile // OVERLAP)) // multiple_of, 1) * multiple_of
    count = -(-(side - tile) // stride)
    return [(side - tile) * n // count // multiple_of * multiple_of for n in range(count)] + [side - tile]


def ramp(length: int) -> np.ndarray:
    """Weights of a tile along one side, float32 [length]: least at its ends, which know the least around them."""
    middle = (length - 1) / 2
    return np.float32(1 + length // 2) - np.abs(np.arange(length, dtype=np.float32) - np.float32(middle))
