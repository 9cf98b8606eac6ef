"""A small study: two sets of results, one red and one blue, whose page and key tests make."""

from pathlib import Path

import numpy as np
from PIL import Image

GUIDES = 3


def write_folders(folder: Path, guides: int = GUIDES) -> list[object]:
    """Arguments of `sdedit evaluate` for results of 16x16 pixels: those in red/ have much red, those in blue/ blue."""
    generator = np.random.default_rng(0)
    for name in ("guides", "reals", "red", "blue"):
        (folder / name).mkdir()
        for number in range(guides):
            pixels = generator.integers(0, 100, (16, 16, 3), dtype=np.uint8)
            if name in ("red", "blue"):
                pixels[..., 0 if name == "red" else 2] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return ["--guides", folder / "guides", "--reals", folder / "reals"]


def both(folder: Path) -> list[object]:
    return ["--results", folder / "red", "--results", folder / "blue", "--study", folder / "study.html"]
