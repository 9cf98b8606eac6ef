"""How far the two graphs are from the network that they were made of."""

import numpy as np

from sdedit.runtime.bundle import Bundle
from sdedit.runtime.checks.parity import parity_inputs
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.box import Box, BoxNetwork

CELLS = 6
"""Sides of the picture that is evaluated, in units; its boxes have less."""


def measure(bundle: Bundle) -> dict[str, float]:
    """The largest error relative to the largest output, at all levels of the bundle's parity, against network.onnx.

    whole: the whole pass's output. full: a box that is the whole picture. part: boxes in the middle, at the border and
    of one unit, fed with what a whole pass of the same picture left; only rounding makes them differ.
    """
    graphs, network = BoxNetwork(bundle, 1), load_engine(bundle, "onnxruntime", "float32", 1)
    unit = graphs.part.unit
    sides = (CELLS * unit, (CELLS + 1) * unit)
    boxes = {
        "full": [Box(0, 0, *sides)],
        "part": [
            Box(unit, 2 * unit, 3 * unit, 2 * unit),
            Box(0, 4 * unit, 2 * unit, 3 * unit),
            Box(unit, 0, unit, unit),
        ],
    }
    errors = {"whole": 0.0, "full": 0.0, "part": 0.0}
    for index in range(len(bundle.reference_levels)):
        inputs = parity_inputs(bundle, index, (bundle.image.channels, *sides))
        expected = np.empty_like(inputs["x"])
        network.bind(inputs, expected)()
        largest = np.abs(expected).max()
        for name, some in boxes.items():
            for box in some:
                whole, kept = graphs.whole(inputs["x"], inputs["time"], box)
                inside = graphs.box(inputs["x"], inputs["time"], box, kept)
                found = float(np.abs(inside - expected[:, :, *box.slices]).max() / largest)
                errors[name] = max(errors[name], found)
                errors["whole"] = max(errors["whole"], float(np.abs(whole - expected).max() / largest))
    return errors
