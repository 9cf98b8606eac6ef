"""The part palette/ of a bundle, from a file that a person wrote."""

import dataclasses
import json
from pathlib import Path

from sdedit.console import to_json
from sdedit.errors import BundleError, reason
from sdedit.runtime.bundle.palette import FOLDER, NAME, Material, parse_palette
from sdedit.runtime.bundle.reading import Bundle
from sdedit.runtime.bundle.records import Problems

from .additions import Addition

MAX_BYTES = 1 << 16


def palette_addition(path: Path) -> Addition:
    """The palette in the JSON file `path`: [{"name": "Ocean", "colour": "#0e285c"}, ...].

    Raises BundleError, naming every problem, before anything is written.
    """
    materials = read_materials(path)

    def write(bundle: Bundle) -> str:
        text = to_json([dataclasses.asdict(material) for material in materials])
        (bundle.path / NAME).write_text(f"{text}\n", encoding="utf-8")
        return f"palette: {', '.join(material.name for material in materials)}"

    return Addition(FOLDER, write)


def read_materials(path: Path) -> tuple[Material, ...]:
    """The materials of a palette's file. Raises BundleError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise BundleError(f"palette {path} is not a file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BundleError(f"palette {path} cannot be read: {reason(error)}") from None
    if len(data) > MAX_BYTES:
        raise BundleError(f"palette {path} has more than {MAX_BYTES} bytes")
    problems = Problems()
    try:
        materials = parse_palette(json.loads(data), problems)
    except (ValueError, RecursionError):
        raise BundleError(f"palette {path} is not valid JSON") from None
    if materials is None:
        raise BundleError(f"palette {path}: {problems}")
    return materials
