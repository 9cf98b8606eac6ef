"""An image's recipe: everything that made it, as JSON in a text chunk of its PNG. A recipe from outside is checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit.errors import ImageError

from .images import load_result

RECIPE_KEY = "sdedit"
"""The PNG text chunk that holds the recipe."""

MAX_RECIPE_BYTES = 1 << 16


def write_recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The recipe as PNG text chunks."""
    return {RECIPE_KEY: json.dumps(recipe, sort_keys=True, allow_nan=False)}


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that a PNG carries; raises ImageError if there is none."""
    return parse_recipe(path, load_result(path))


def parse_recipe(path: Path, image: Image.Image) -> dict[str, Any]:
    """The recipe of a loaded PNG; raises ImageError. path: for messages."""
    text = image.info.get(RECIPE_KEY)
    if not isinstance(text, str):
        raise ImageError(f"{path} carries no recipe: only PNGs that sdedit wrote do")
    try:
        recipe = json.loads(text, parse_constant=refuse_constant) if len(text) <= MAX_RECIPE_BYTES else None
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise ImageError(f"{path}: its recipe is damaged")
    return recipe


def refuse_constant(name: str) -> float:
    """JSON has no NaN and no infinity; Python's reader takes them."""
    raise ValueError(f"{name} is not JSON")
