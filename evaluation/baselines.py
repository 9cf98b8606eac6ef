"""Other ways to edit the same guides, to compare edits with: `python -m sdedit.evaluation.baselines --help`."""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.baselines")
    raise SystemExit

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from sdedit.console import Number, run_command
from sdedit.errors import ImageError
from sdedit.runtime.codec import to_image
from sdedit.runtime.images import check_output, open_mask, open_picture, save_image

from .blending import METHODS
from .pipelines import Request, fit, open_painter
from .runs import Inputs, by_stem, find_inputs, make_folder, read_images, read_masks

NEEDED = dict.fromkeys(METHODS, ("masks", "photos")) | {"img2img": ("model",), "inpaint": ("model", "masks")}
"""Method -> the options that it needs."""

OF_EDITS = ("t0", "steps", "prompt", "seed")
"""Options of img2img and inpaint."""

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--guides", required=True, type=FOLDER, help="Folder of guides.")
@click.option("--masks", type=FOLDER, help="Folder of masks, white where a guide is edited.")
@click.option("--photos", type=FOLDER, help="laplacian, poisson: folder of the photos before the pasting.")
@click.option("--model", type=FOLDER, help="img2img, inpaint: folder that a pipeline of diffusers was saved in.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of results.")
@click.option("--method", type=click.Choice(list(NEEDED)), default="laplacian", show_default=True, help="How to edit.")
@click.option(
    "--t0",
    "--strength",
    "t0",
    type=Number(min=0, max=1, min_open=True),
    default=0.5,
    show_default=True,
    help="img2img, inpaint: share of the noise, as in sdedit edit.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=25,
    show_default=True,
    help="img2img, inpaint: evaluations of the network.",
)
@click.option("--prompt", default="", help="img2img, inpaint: text for a model that takes one.")
@click.option("--seed", type=click.IntRange(min=0, max=2**63 - 1), default=0, show_default=True, help="Of the noise.")
def command(
    guides: Path, masks: Path | None, photos: Path | None, model: Path | None, out: Path, method: str, **edit: Any
) -> None:
    """Edit or blend every guide of GUIDES, for sdedit evaluate --results OUT.

    laplacian and poisson blend each composite into the photo of its name in PHOTOS, where its mask is white, to
    OUT/NAME.png. img2img and inpaint edit with the package diffusers and a model of its own, to OUT/NAME-SEED.png.
    Copy and paste is measured with --results GUIDES.
    """
    check_options(method, masks=masks, photos=photos, model=model)
    inputs = find_inputs(guides, masks)
    if model is not None:
        edit_all(inputs, model, Request(**edit), out)
    else:
        assert photos is not None
        blend_all(inputs, by_stem(photos), photos, method, out)


def check_options(method: str, **folders: Path | None) -> None:
    """Raise UsageError unless there are all folders that the method needs, and no option of another method."""
    context = click.get_current_context()
    given = {name for name, folder in folders.items() if folder is not None}
    if lacking := [name for name in NEEDED[method] if name not in given]:
        raise click.UsageError(f"--method {method} needs --{lacking[0]}")
    if "model" not in NEEDED[method]:
        given |= {name for name in OF_EDITS if context.get_parameter_source(name) is not ParameterSource.DEFAULT}
    if others := sorted(given - set(NEEDED[method])):
        raise click.UsageError(f"--{others[0]} is not an option of --method {method}")


def edit_all(inputs: Inputs, model: Path, request: Request, out: Path) -> None:
    """Edit every guide by diffusers, with its mask if there are masks, into OUT/NAME-SEED.png."""
    masked = bool(inputs.masks)
    painter = open_painter(model, masked)
    make_folder(out)
    for stem, path in inputs.guides.items():
        target = out / f"{stem}-{request.seed}.png"
        check_output(target, [path, *inputs.masks.values()])
        picture = fit(painter, open_picture(path, "guide").image, masked, f"guide {path}")
        mask = open_mask(inputs.masks[stem], picture.size)[0] > 0 if masked else None
        save_image(painter.paint(picture, mask, request), target, {})


def blend_all(inputs: Inputs, originals: dict[str, Path], photos: Path, method: str, out: Path) -> None:
    """Blend every composite into the photo of its name, into OUT/NAME.png."""
    if absent := sorted(inputs.guides.keys() - originals.keys()):
        raise ImageError(f"folder {photos} has no photo of guide {absent[0]} ({len(absent)} lack one)")
    make_folder(out)
    for stem, path in inputs.guides.items():
        target = out / f"{stem}.png"
        check_output(target, [path, originals[stem], inputs.masks[stem]])
        pair = read_images([path, originals[stem]], "image")
        mask = read_masks(inputs, [stem], (pair.shape[3], pair.shape[2]))
        assert mask is not None
        save_image(to_image(METHODS[method](pair[0], pair[1], mask[0])), target, {})


def main() -> None:
    """Run the command as this process."""
    run_command(command, "sdedit.evaluation.baselines")
