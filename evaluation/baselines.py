"""Laplacian blending, a baseline for composites: `python -m sdedit.evaluation.baselines --help`."""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.baselines")
    raise SystemExit

from pathlib import Path

import click
import numpy as np

from sdedit.console import run_command
from sdedit.errors import ImageError
from sdedit.runtime.codec import to_image
from sdedit.runtime.images import check_output, save_image

from .metrics import double
from .runs import by_stem, find_inputs, make_folder, read_images, read_masks

KERNEL = np.array([1, 4, 6, 4, 1]) / 16
"""Weights of the pyramid's filter: Burt and Adelson's with a = 3/8."""


def laplacian_blend(pasted: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The pasted part in the photo, each octave blended over its own width: Burt and Adelson 1983, section 3.

    pasted, photo: float32 [C, H, W] in [-1, 1]; mask: [H, W], 1 where `pasted` is wanted. Returns float32 [C, H, W],
    clamped to [-1, 1]. Each level is L = m L_pasted + (1 - m) L_photo with the mask's own pyramid m; the sum of the
    levels is the result. Halving stops at odd sides, and before a side would be below 8 pixels.
    """
    a, b, m = (np.asarray(x, np.float64) for x in (pasted, photo, mask[None]))
    levels = []
    while min(a.shape[1:]) >= 16 and a.shape[1] % 2 == a.shape[2] % 2 == 0:
        small_a, small_b, small_m = (halved(x) for x in (a, b, m))
        levels.append(m * (a - doubled(small_a)) + (1 - m) * (b - doubled(small_b)))
        a, b, m = small_a, small_b, small_m
    blend = m * a + (1 - m) * b
    for level in reversed(levels):
        blend = doubled(blend) + level
    return np.clip(blend, -1, 1).astype(np.float32)


def halved(image: np.ndarray) -> np.ndarray:
    """Every second pixel of [C, H, W] after the filter; the image goes on as its border."""
    for axis in (1, 2):
        padding = [(2, 2) if axis == other else (0, 0) for other in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, padding, "edge"), len(KERNEL), axis)
        image = (windows @ KERNEL).take(range(0, image.shape[axis], 2), axis)
    return image


def doubled(image: np.ndarray) -> np.ndarray:
    """Twice as many pixels along both sides of [C, H, W]."""
    found: np.ndarray = double(double(image[None], 2), 3)[0]
    return found


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--guides", required=True, type=FOLDER, help="Folder of composites.")
@click.option("--masks", required=True, type=FOLDER, help="Folder of masks, white where something was pasted.")
@click.option("--photos", required=True, type=FOLDER, help="Folder of the photos before the pasting.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of results.")
def command(guides: Path, masks: Path, photos: Path, out: Path) -> None:
    """Blend each composite of GUIDES into the photo of its name in PHOTOS, where its mask is white, to OUT/NAME.png.

    Measure the blends with sdedit evaluate --results OUT, and copy and paste with --results GUIDES.
    """
    inputs = find_inputs(guides, masks)
    originals = by_stem(photos)
    if absent := sorted(inputs.guides.keys() - originals.keys()):
        raise ImageError(f"folder {photos} has no photo of guide {absent[0]} ({len(absent)} lack one)")
    make_folder(out)
    for stem, path in inputs.guides.items():
        target = out / f"{stem}.png"
        check_output(target, [path, originals[stem], inputs.masks[stem]])
        pair = read_images([path, originals[stem]], "image")
        mask = read_masks(inputs, [stem], (pair.shape[3], pair.shape[2]))
        assert mask is not None
        save_image(to_image(laplacian_blend(pair[0], pair[1], mask[0])), target, {})


def main() -> None:
    """Run the command as this process."""
    run_command(command, "sdedit.evaluation.baselines")
