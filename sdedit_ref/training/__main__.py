"""Train a score network on pictures: `python -m sdedit_ref.training --help`."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from sdedit.console import run_command
from sdedit.errors import CheckpointError, ImageError

from ..networks.ddpm import DDPMConfig
from ..sde import SCHEDULES
from .crops import HELD_OUT, find_pictures, parse_numbers, parse_scales, split
from .run import make_folder, new_run, resume, start_from
from .train import PRECISIONS, WEIGHTINGS, Recipe, train

COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)
SEEDS = click.IntRange(0, 2**32 - 1)


@click.command(epilog="Example: python -m sdedit_ref.training photos/ --out run --size 64 --patch 2 --images 500000")
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the run; one with a save goes on."
)
@click.option("--start", type=click.Path(path_type=Path), help="Safetensors file with the first weights of a new run.")
@click.option("--size", type=COUNT, default=64, show_default=True, help="Pixels of a crop's sides.")
@click.option(
    "--width", type=COUNT, default=64, show_default=True, help="Channels at the finest level; a multiple of 32."
)
@click.option("--multiples", default="1,2,2", show_default=True, help="Channels of each level, in widths.")
@click.option("--blocks", type=COUNT, default=1, show_default=True, help="Residual blocks a level.")
@click.option("--attention", default="2", show_default=True, help="Levels with attention, 0 = finest.")
@click.option(
    "--patch", type=COUNT, default=2, show_default=True, help="Pixels of a square that the network takes as one."
)
@click.option("--prediction", type=click.Choice(("v", "eps")), default="v", show_default=True)
@click.option("--schedule", type=click.Choice(tuple(SCHEDULES)), default="cosine", show_default=True)
@click.option(
    "--images", type=COUNT, default=500_000, show_default=True, help="To train on in all; the learning rate ends at 0."
)
@click.option("--batch", type=COUNT, default=32, show_default=True)
@click.option("--lr", type=POSITIVE, default=4e-4, show_default=True, help="Learning rate at its peak (AdamW).")
@click.option(
    "--warm-up", type=COUNT, default=10_000, show_default=True, help="Images until the peak; at most a tenth of all."
)
@click.option(
    "--ema",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.9995,
    show_default=True,
    help="Decay of the averaged weights, which are the result.",
)
@click.option(
    "--weighting",
    type=click.Choice(WEIGHTINGS),
    default=WEIGHTINGS[0],
    show_default=True,
    help="Of the noise levels. min-snr: the cleanest count little; uniform: all alike.",
)
@click.option(
    "--gamma", type=POSITIVE, default=5.0, show_default=True, help="Of min-snr; larger: clean levels count more."
)
@click.option("--precision", type=click.Choice(PRECISIONS), default="float32", show_default=True)
@click.option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", show_default=True)
@click.option("--scales", default="1", show_default=True, help="Reductions before a crop: SCALE:CHANCE,...")
@click.option("--turns", is_flag=True, help="Quarter turns as well as mirror images.")
@click.option(
    "--flat",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the nearly even, greyish crops that is used.",
)
@click.option("--hold-out", help="Never trained on: LEFT,TOP,RIGHT,BOTTOM of one picture, or every N-th of a folder.")
@click.option("--seed", type=SEEDS, default=0, show_default=True)
@click.option("--workers", type=click.IntRange(0), default=0, show_default=True, help="Processes that cut crops.")
@click.option("--save-minutes", type=click.FloatRange(0), default=5.0, show_default=True)
@click.option("--report", type=COUNT, default=20_000, show_default=True, help="Images between two held-out losses.")
def command(pictures: Path, out: Path, start: Path | None, **options: Any) -> None:
    """Train a score network on PICTURES, a folder of images or one large image, by random crops.

    Kill it whenever you like: the same command goes on from the last save. OUT/ema.safetensors is what `sdedit export`
    takes; OUT/samples.png and OUT/log.jsonl show how far it is.
    """
    o = argparse.Namespace(**options)
    recipe = Recipe(**{field.name: options[field.name] for field in dataclasses.fields(Recipe)})
    if recipe.images < recipe.batch:
        raise CheckpointError(f"images {recipe.images} are fewer than a batch of {recipe.batch}")
    config = network_config(o)
    crops, held_out = split(
        find_pictures(pictures, o.size), o.hold_out, o.size, o.seed, parse_scales(o.scales), o.flat, o.turns
    )
    run = new_run(config, o.prediction, o.schedule, PRECISIONS[o.precision], o.device, o.seed)
    views = torch.stack([held_out[index] for index in range(HELD_OUT)]).to(o.device)
    metadata = {
        "family": "ddpm",
        "prediction": o.prediction,
        "betas": o.schedule,
        "timesteps": str(len(run.schedule)),
        "image_size": str(o.size),
        "patch": str(o.patch),
    }
    if start is not None:
        start_from(run, start, metadata)
    make_folder(out)
    resume(run, out, metadata)
    click.echo(f"{sum(map(Tensor.numel, run.network.parameters()))} parameters, from image {run.seen} on")
    try:
        train(run, crops, views, out, metadata, recipe)
    except ImageError as error:  # of a worker it comes with that one's traceback before it
        raise ImageError(str(error).splitlines()[-1].removeprefix("sdedit.errors.ImageError: ")) from None


def network_config(o: argparse.Namespace) -> DDPMConfig:
    """Raises CheckpointError, and ImageError for what is no list."""
    multiples, attention = parse_numbers(o.multiples), parse_numbers(o.attention)
    if not multiples or min(multiples) < 1:
        raise CheckpointError(f"multiples {o.multiples!r} are no list of numbers from 1 on, like 1,2,2")
    if not set(attention) <= set(range(len(multiples))):
        raise CheckpointError(f"attention {o.attention!r} names a level that is not in 0..{len(multiples) - 1}")
    config = DDPMConfig(3, o.size, o.width, multiples, o.blocks, attention, o.patch)
    if o.width % 32 or o.size % config.multiple_of:
        raise CheckpointError(f"width {o.width} must be a multiple of 32, size {o.size} one of {config.multiple_of}")
    return config


def main() -> None:
    run_command(command, "train")


if __name__ == "__main__":
    main()
