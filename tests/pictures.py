"""Pictures for tests: every grey, random ones, and a folder of even ones."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
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


sides = st.integers(1, 60)

contexts = st.one_of(st.floats(0, 3), st.sampled_from([0.25, 1e308]))


@st.composite
def photos_with_masks(draw: st.DrawFn) -> tuple[Image.Image, np.ndarray]:
    """A photo of any size, and a mask with a box and some dots or with nothing."""
    width, height = draw(sides), draw(sides)
    mask = np.zeros((height, width), np.float32)
    left, right = sorted(draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    top, bottom = sorted(draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    mask[top:bottom, left:right] = draw(st.sampled_from([0.5, 1]))
    for _ in range(draw(st.integers(1, 3))):
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1
    return random_photo(width, height), mask
