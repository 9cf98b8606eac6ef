"""Arguments of the Editor: everything of another type, or out of range, is an error of one line."""

import operator
import os
from collections.abc import Sequence
from typing import Literal

from sdedit.errors import EngineError, PlanError, shown

from ..bundle import SHIPPED, Bundle, read_bundle

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"]
PrecisionName = Literal["auto", "float32", "float16", "bfloat16", "int8"]
DeviceName = Literal["cpu", "cuda"]

MOST = 2**31 - 1
"""Largest number of slots, threads and waiting jobs that is looked at."""


def load(bundle: str | os.PathLike[str] | Bundle | None) -> Bundle:
    """The bundle itself, read from its folder, or the shipped one for None. Raises BundleError."""
    if isinstance(bundle, Bundle):
        return bundle
    return read_bundle(SHIPPED if bundle is None else bundle)


def check_opening(
    engine: object,
    precision: object,
    threads: int | None,
    slots: int,
    device: object,
    eager: object,
    max_waiting: int | None,
) -> tuple[int | None, int, int | None]:
    """threads, slots and max_waiting as Python's integers. Raises EngineError."""
    for name, value in (("engine", engine), ("precision", precision), ("device", device)):
        if not isinstance(value, str):
            raise EngineError(f"{name} {shown(value)} is not a name")
    if not isinstance(eager, bool):
        raise EngineError(f"eager {shown(eager)} is not True or False")
    return (
        None if threads is None else _integer("threads", threads, -MOST),
        _integer("slots", slots, 1),
        None if max_waiting is None else _integer("max_waiting", max_waiting, 0),
    )


def check_function(name: str, value: object) -> None:
    """Raise PlanError for what is neither None nor callable."""
    if value is not None and not callable(value):
        raise PlanError(f"{name} {shown(value)} is not a function")


def check_image_numbers(numbers: Sequence[int] | None, images: int) -> Sequence[int]:
    """The numbers of the images to make, None for all. Raises PlanError unless they are distinct, in 0..images-1."""
    if numbers is None:
        return range(images)
    if isinstance(numbers, range) and len(numbers):  # never a list: it may be longer than memory
        least, most = sorted((numbers[0], numbers[-1]))
        if not 0 <= least <= most < images:
            raise PlanError(f"image_numbers {numbers} is not in 0..{images - 1}: images is {images}")
        return numbers
    try:
        if isinstance(numbers, str | bytes):
            raise TypeError
        chosen = [operator.index(number) for number in numbers]
    except TypeError:
        raise PlanError(f"image_numbers {shown(numbers)} is not a sequence of integers") from None
    if not chosen or len(set(chosen)) < len(chosen):
        raise PlanError(f"image_numbers {shown(numbers)} is empty or names an image twice")
    if not 0 <= min(chosen) <= max(chosen) < images:
        raise PlanError(f"image_numbers {shown(numbers)} is not in 0..{images - 1}: images is {images}")
    return chosen


def _integer(name: str, value: int, least: int = 0) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise EngineError(f"{name} {shown(value)} is not an integer") from None
    if not least <= number <= MOST:
        raise EngineError(f"{name} {shown(number)} is not in {least}..{MOST}")
    return number
