"""Arguments of the Editor: everything of another type, or out of range, is an error of one line."""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sdedit.errors import BundleError, EngineError, PlanError

from ..bundle import SHIPPED, Bundle, read_bundle

EngineName = Literal["auto", "onnxruntime", "openvino", "tensorrt"]
PrecisionName = Literal["auto", "float32", "float16", "bfloat16", "int8"]
DeviceName = Literal["cpu", "cuda"]


def load(bundle: str | os.PathLike[str] | Bundle | None) -> Bundle:
    """The bundle itself, read from its folder, or the shipped one for None. Raises BundleError."""
    if isinstance(bundle, Bundle):
        return bundle
    if bundle is None:
        return read_bundle(SHIPPED)
    try:
        folder = os.fsdecode(bundle)
    except TypeError:
        raise BundleError(f"bundle {bundle!r} is not the name of a folder") from None
    return read_bundle(Path(folder))


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
            raise EngineError(f"{name} {value!r} is not a name")
    if not isinstance(eager, bool):
        raise EngineError(f"eager {eager!r} is not True or False")
    return (
        None if threads is None else _integer("threads", threads),
        _integer("slots", slots, 1),
        None if max_waiting is None else _integer("max_waiting", max_waiting, 0),
    )


def check_function(name: str, value: object) -> None:
    """Raise PlanError for what is neither None nor callable."""
    if value is not None and not callable(value):
        raise PlanError(f"{name} {value!r} is not a function")


def check_image_numbers(numbers: Sequence[int] | None, images: int) -> Sequence[int]:
    """The numbers of the images to make, None for all. Raises PlanError unless they are distinct, in 0..images-1."""
    if numbers is None:
        return range(images)
    try:
        if isinstance(numbers, str | bytes):
            raise TypeError
        chosen = [operator.index(number) for number in numbers]
    except TypeError:
        raise PlanError(f"image_numbers {numbers!r} is not a sequence of integers") from None
    if not chosen or len(set(chosen)) < len(chosen):
        raise PlanError(f"image_numbers {numbers!r} is empty or names an image twice")
    if not 0 <= min(chosen) <= max(chosen) < images:
        raise PlanError(f"image_numbers {numbers!r} is not in 0..{images - 1}: images is {images}")
    return chosen


def _integer(name: str, value: int, least: int | None = None) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise EngineError(f"{name} {value!r} is not an integer") from None
    if least is not None and number < least:
        raise EngineError(f"{name} {number} is not at least {least}")
    return number
