"""Measure an engine's error: the bundle carries the reference's outputs, and a function computes the inputs."""

from collections.abc import Mapping, Sequence

import numpy as np

from sdedit.kernels.layout import KIND_BEGIN, KIND_STEP
from sdedit.kernels.noise import normal_numpy

from ..bundle import Bundle, TensorSpec
from ..engines import Engine

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2, "float16": 1e-2, "int8": 0.5}
"""Largest accepted relative_error. float32: export's own bound. bfloat16: 8 bits of mantissa, 2^-9 a rounding, which a
network of L layers in residual sum grows to about 2^-9 sqrt(2 L): 0.03 at the 100 layers of the largest networks.
float16: an eighth of that, 3.5e-3, and earth64 has 1.9 times what its 51 convolutions would have by this: hence 1e-2.
int8: that edits stay close is proven at export; this only tells a network that runs from one that does not.
"""

FULL_SIZE = 0.5
"""Sigma from which on an even grey, noised, is as large as the states of an edit."""


def parity_input(schedule: np.ndarray, k: int, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """sigma_k z: an even grey, noised; float32 [1, C, H, W]."""
    z = normal_numpy(0, index, 0, 0, KIND_BEGIN, int(np.prod(shape)))
    return (np.float32(schedule[k - 1, 1]) * z).reshape(1, *shape)


def parity_label(index: int, classes: int) -> int:
    """The label of input `index` of a network of that many classes; 0 if it takes none."""
    return index % classes if classes else 0


def parity_conditions(inputs: Mapping[str, TensorSpec], index: int) -> dict[str, np.ndarray]:
    """Values of inputs besides x, time and label for input `index`, by name, batch 1: noise, of the name's number.

    Input n by alphabet is normal(seed 0, image `index`, repeat n, step 0, step).
    """
    named = sorted(inputs.keys() - {"x", "time", "label"})
    shapes = [inputs[name].shape for name in named]
    return {
        name: normal_numpy(0, index, number, 0, KIND_STEP, int(np.prod(shape))).reshape(1, *shape)
        for number, (name, shape) in enumerate(zip(named, shapes, strict=True))
    }


def parity_inputs(bundle: Bundle, index: int, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """The network's inputs for the reference's output `index` at states of that shape, by name, batch 1."""
    k = bundle.reference_levels[index]
    inputs = {
        "x": parity_input(bundle.schedule.table, k, index, shape),
        "time": np.array([bundle.schedule.level(k).time], np.float32),
        "label": np.array([parity_label(index, bundle.classes)], np.int64),
        **parity_conditions(bundle.inputs_at(shape), index),
    }
    return {name: inputs[name] for name in bundle.inputs}


def level_errors(outputs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """At each level, the largest absolute error relative to the largest expected value there: [L]."""
    axes = tuple(range(1, expected.ndim))
    return np.abs(outputs - expected).max(axes) / np.abs(expected).max(axes)


def relative_error(outputs: np.ndarray, expected: np.ndarray) -> float:
    """The largest of level_errors."""
    return float(level_errors(outputs, expected).max())


def judged(bundle: Bundle, precision: str) -> list[int]:
    """Which of the reference outputs tell how good a precision is: all tell of float32.

    An edit's states have the size of images at every level. An even grey has not: where sigma is small, so is the
    input, which lower precisions round away. They are judged where sigma is at least FULL_SIZE, and at the last level.
    """
    levels = bundle.reference_levels
    last = len(levels) - 1
    return [
        i
        for i, k in enumerate(levels)
        if precision == "float32" or bundle.schedule.level(k).sigma >= FULL_SIZE or i == last
    ]


def measure_errors(bundle: Bundle, engine: Engine) -> list[float]:
    """The engine's level_errors against the bundle's reference outputs; NaN where it returns NaN."""
    return errors_against(bundle, engine, bundle.reference()[1])


def errors_against(
    bundle: Bundle, engine: Engine, expected: np.ndarray, numbers: Sequence[int] | None = None
) -> list[float]:
    """The engine's level_errors against the reference's outputs, float32 [L, C, H, W] of any size that it takes.

    numbers: which of the parity levels they are at; None: all of them.
    """
    shape = expected.shape[1:]
    inputs = {name: np.empty((1, *spec.shape), spec.dtype) for name, spec in bundle.inputs_at(shape).items()}
    out = np.empty((1, *shape), np.float32)
    evaluate = engine.bind(inputs, out)
    outputs = np.empty_like(expected)
    for row, index in enumerate(range(len(expected)) if numbers is None else numbers):
        for name, value in parity_inputs(bundle, index, shape).items():
            inputs[name][:] = value
        evaluate()
        outputs[row] = out[0]
    return [float(error) for error in level_errors(outputs, expected)]


def measure_error(bundle: Bundle, engine: Engine) -> float:
    """The largest of measure_errors at the levels that are `judged`; NaN where any is."""
    errors = measure_errors(bundle, engine)
    return float(np.max([errors[index] for index in judged(bundle, engine.precision)]))
