"""The part box/: two graphs that recompute only a box of every layer of the network, from what a whole pass left."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from sdedit.errors import EngineError

from .parts import extend_command, read_part, require_listed
from .reading import Bundle
from .records import Problems, read_record

FOLDER = "box"
BOX = "box.json"
NAME = f"{FOLDER}/{BOX}"
WHOLE_PASS = "whole.onnx"
BOX_PASS = "box.onnx"

NUMBERS = {"norm": 3, "mean": 1}
"""Numbers a channel of the kinds that are no pictures."""

KINDS = ("box", "picture", *NUMBERS)


@dataclass(frozen=True)
class Kept:
    """A value that the whole pass leaves to the box pass.

    kind: as large as the box, as the picture, a norm's three numbers a channel, or a mean's one. channels: of it; a
    norm's groups. scale: pixels of the picture along a side of a cell.
    """

    kind: str
    channels: int
    scale: int

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        problems.require(fields.get("kind", "box") in KINDS, f"{where}.kind is not one of {', '.join(KINDS)}")
        for name in ("channels", "scale"):
            problems.require(fields.get(name, 1) >= 1, f"{where}.{name} is not at least 1")

    def bytes(self, box: tuple[int, int], picture: tuple[int, int]) -> int:
        """The size of the value as float32, for sides in pixels."""
        if self.kind in NUMBERS:
            return 4 * NUMBERS[self.kind] * self.channels
        sides = box if self.kind == "box" else picture
        return 4 * self.channels * prod(side // self.scale for side in sides)


@dataclass(frozen=True)
class BoxPart:
    """unit: what a box's corner and sides are multiples of, in pixels. kept: the values by name.

    errors: relative errors against the network that export measured: of a box as large as the picture, and of smaller.
    """

    unit: int
    kept: Mapping[str, Kept]
    errors: Mapping[str, float]

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        del where
        problems.require(fields.get("unit", 1) >= 1, "unit is not at least 1")

    def row_bytes(self, box: tuple[int, int], picture: tuple[int, int]) -> int:
        """Memory of what one evaluation leaves; height and width of the box and of the picture in pixels."""
        return sum(kept.bytes(box, picture) for kept in self.kept.values())


def read_box_part(bundle: Bundle) -> BoxPart:
    """The part; raises EngineError if the bundle has none, BundleError if its manifest is damaged."""
    part = read_part(bundle, NAME, lambda value, problems: read_record(BoxPart, value, "", problems))
    if part is None:
        raise EngineError(f"bundle {bundle.path} has no graphs for boxes: {extend_command(bundle, '--box')}")
    require_listed(bundle, NAME, [f"{FOLDER}/{WHOLE_PASS}", f"{FOLDER}/{BOX_PASS}"])
    return part
