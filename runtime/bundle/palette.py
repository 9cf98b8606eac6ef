"""The part palette/: colours that the model knows, named, for people who paint guides for it."""

import re
from dataclasses import dataclass
from typing import Any

from .parts import read_part
from .reading import Bundle
from .records import Problems

FOLDER = "palette"
NAME = f"{FOLDER}/palette.json"

MAX_MATERIALS = 32
MAX_NAME = 40

COLOUR = re.compile(r"#[0-9a-f]{6}")


@dataclass(frozen=True)
class Material:
    """A colour to paint with. name: for people. colour: "#rrggbb", sRGB, in lower case."""

    name: str
    colour: str


def read_palette(bundle: Bundle) -> tuple[Material, ...]:
    """The bundle's materials in their order, () if it has no palette; raises BundleError if it is damaged."""
    return read_part(bundle, NAME, parse_palette) or ()


def parse_palette(value: Any, problems: Problems) -> tuple[Material, ...] | None:
    """[{"name", "colour"}] as materials."""
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MATERIALS:
        problems.append(f"it is not a list of 1..{MAX_MATERIALS} materials")
        return None
    for i, entry in enumerate(value):
        if not isinstance(entry, dict) or entry.keys() != {"name", "colour"}:
            problems.append(f"material {i} is not an object of name and colour")
            continue
        name, colour = entry["name"], entry["colour"]
        plain = isinstance(name, str) and name.isprintable() and 1 <= len(name) <= MAX_NAME and name == name.strip()
        problems.require(plain, f"material {i}: name {name!r} is not a text of 1..{MAX_NAME} printable characters")
        fits = isinstance(colour, str) and COLOUR.fullmatch(colour)
        problems.require(bool(fits), f"material {i}: colour {colour!r} is not #rrggbb in lower case")
    return None if problems else tuple(Material(entry["name"], entry["colour"]) for entry in value)
