"""An image's recipe: everything that made it, as JSON in a text of its file. A recipe from outside is checked."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdedit.errors import ImageError

from .images import load_result

RECIPE_KEY = "sdedit"
"""Key of the text that holds the recipe: a chunk of a PNG, an element of XMP data in a WebP or JPEG."""

MAX_RECIPE_BYTES = 1 << 16
"""Recipes are a few hundred bytes long; a longer one is damaged."""


def write_recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """The recipe as texts of a file."""
    return {RECIPE_KEY: json.dumps(recipe, sort_keys=True, allow_nan=False)}


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that an image carries; raises ImageError if there is none."""
    return parse_recipe(path, load_result(path))


def parse_recipe(path: Path, image: Image.Image) -> dict[str, Any]:
    """The recipe of an image from `load_result`; raises ImageError. path: for messages."""
    text = image.info.get(RECIPE_KEY)
    if not isinstance(text, str):
        raise ImageError(f"{path} carries no recipe: only images that sdedit wrote do")
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
