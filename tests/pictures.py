"""Pictures for tests: every grey, random ones, and a folder of even ones."""

from pathlib import Path

import numpy as np
from PIL import Image

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)


def random_photo(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3))
    return Image.fromarray(values.astype(np.uint8))


def write_even(folder: Path) -> Path:
    """Write ten pictures of one colour each into the folder."""
    for index in range(10):
        Image.new("RGB", (12, 10), (25 * index, 128, 255 - 25 * index)).save(folder / f"{index}.png")
    return folder
