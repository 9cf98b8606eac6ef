"""Images to measure on: held-out views, stroke paintings of them, and edits of these.

Images are float32 [N, 3, H, W] in [-1, 1], and hold 8-bit values wherever they come from here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sdedit.runtime import Editor
from sdedit.runtime.codec import to_image, to_state
from sdedit.runtime.images.strokes import COLOURS, stroke_painting
from sdedit_ref.training.crops import Crops


def cut(crops: Crops, first: int, count: int) -> np.ndarray:
    """The crops number `first` to `first + count - 1` (see sdedit_ref.training.crops)."""
    return np.stack([crops[index] for index in range(first, first + count)])


def paint(views: np.ndarray, colours: int = COLOURS) -> np.ndarray:
    """Each view as `sdedit strokes` paints it."""
    return np.stack([to_state(stroke_painting(to_image(view), colours=colours)) for view in views])


def middle_mask(size: int) -> np.ndarray:
    """A mask that edits the middle quarter of a square image: uint8 [size, size], 0 or 255."""
    mask = np.zeros((size, size), np.uint8)
    inner = slice(size // 4, size - size // 4)
    mask[inner, inner] = 255
    return mask


def edit(
    editor: Editor, guides: np.ndarray, seeds: Sequence[int], mask: np.ndarray | None = None, **options: Any
) -> np.ndarray:
    """One edit of each guide, with its own seed. options: those of Editor.edit, but `seed` and `images`."""
    jobs = [
        editor.submit(to_image(guide), mask, seed=seed, **options) for guide, seed in zip(guides, seeds, strict=True)
    ]
    return np.stack([to_state(job.result().images[0].pil) for job in jobs])


def sample(editor: Editor, count: int, **options: Any) -> np.ndarray:
    """Samples from pure noise: an even grey, edited from t0 = 1. options: those of Editor.edit."""
    channels, height, width = editor.bundle.state_shape
    grey = to_image(np.zeros((channels, height, width), np.float32))
    return np.stack([to_state(image.pil) for image in editor.edit(grey, t0=1.0, images=count, **options).images])
