"""An image's recipe: everything that made it, as JSON in a text chunk of its PNG. A recipe from outside is checked."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit.errors import ImageError

from .images import load_result

RECIPE_KEY = "sdedit"
"""The PNG text chunk that holds the recipe."""

MAX_RECIPE_BYTES = 1 << 16
"""Recipes are a few hundred bytes long; a longer one is damaged."""


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
        if len(text) > MAX_RECIPE_BYTES:
            raise ValueError("too long")
        recipe = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError):
        recipe = None
    if not isinstance(recipe, dict):
        raise ImageError(f"{path}: its recipe is damaged")
    return recipe


def _finite(text: str) -> float:
    """Refuse NaN and infinities, which JSON does not have, and 1e999, which Python reads as one."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value
