"""Train a score network on pictures: `python -m sdedit_ref.training --help`."""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdedit.console import Number, run_command
from sdedit.errors import CheckpointError, ImageError, SdeditError, install_hint, raise_interrupt

from ..sde import SCHEDULES
from .crops import HELD_OUT, Crops, find_pictures, parse_numbers, parse_scales, parse_sides, split
from .hyperparameters import PRECISIONS, WEIGHTINGS, Hyperparameters

if TYPE_CHECKING:
    from ..networks.ddpm import DDPMConfig

COUNT = click.IntRange(min=1)
POSITIVE = Number(min=0, min_open=True)
SEEDS = click.IntRange(0, 2**32 - 1)
option = functools.partial(click.option, show_default=True)


@click.command(epilog="Example: python -m sdedit_ref.training photos/ --out run --size 64 --patch 2 --images 500000")
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the run. A run goes on from its last save.",
)
@click.option("--start", type=click.Path(path_type=Path), help="Safetensors file with a new run's initial weights.")
@option("--size", type=COUNT, default=64, help="Side of a crop, in pixels.")
@option("--width", type=COUNT, default=64, help="Channels at the finest level, a multiple of 32.")
@option("--multiples", default="1,2,2", help="Channels of each level, as multiples of the width.")
@option("--blocks", type=COUNT, default=1, help="Residual blocks per level.")
@option("--attention", default="2", help="Levels with self-attention, 0 = finest.")
@option(
    "--patch",
    type=COUNT,
    default=2,
    help="Side of the squares of pixels that are one position of the network.",
)
@click.option("--only", help="Train only these parts of the network, such as up.0,conv_out; keep the rest.")
@click.option("--sides", help="Crops of several sides: SIDE:CHANCE,... A step has as many pixels at each.")
@option("--prediction", type=click.Choice(("v", "eps")), default="v", help="Output of the network.")
@option("--schedule", type=click.Choice(tuple(SCHEDULES)), default="cosine", help="Noise levels.")
@option(
    "--images",
    type=COUNT,
    default=500_000,
    help="Images to train on in all. The learning rate ends at 0.",
)
@option("--batch", type=COUNT, default=32, help="Images per step.")
@option("--lr", type=POSITIVE, default=4e-4, help="Learning rate at its peak (AdamW).")
@option("--warm-up", type=COUNT, default=10_000, help="Images until that peak, at most a tenth of all.")
@option(
    "--ema",
    type=Number(0, 1, max_open=True),
    default=0.9995,
    help="Decay per step of the averaged weights, which are the result.",
)
@option(
    "--weighting",
    type=click.Choice(WEIGHTINGS),
    default=WEIGHTINGS[0],
    help="Weights of noise levels. min-snr: the cleanest count little. uniform: all count the same.",
)
@option(
    "--gamma",
    type=POSITIVE,
    default=5.0,
    help="Bound of min-snr. If larger, clean levels count more.",
)
@option("--precision", type=click.Choice(PRECISIONS), default="float32", help="Arithmetic.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the network with torch.compile, for a minute or so.")
@option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", help="Where to compute.")
@option(
    "--scales",
    default="1",
    help="Reductions before a crop, with their chances: SCALE:CHANCE,...",
)
@click.option("--turns", is_flag=True, help="Use quarter turns as well as mirror images.")
@option(
    "--flat",
    type=Number(0, 1),
    default=1.0,
    help="Share of the even, nearly grey crops that is used.",
)
@click.option("--hold-out", help="Not trained on: LEFT,TOP,RIGHT,BOTTOM of one picture, or every N-th of a folder.")
@option("--seed", type=SEEDS, default=0, help="Seed of weights, crops and noise.")
@option("--workers", type=click.IntRange(0), default=0, help="Number of processes that cut crops.")
@option("--save-minutes", type=Number(0), default=5.0, help="Time between saves.")
@click.option("--minutes", type=POSITIVE, help="End after so many minutes, with a save; the same command goes on.")
@click.option("--small", is_flag=True, help="Save weights in half and no optimizer state, a quarter of the bytes.")
@option(
    "--report",
    type=COUNT,
    default=20_000,
    help="Images between two reports with held-out loss and samples.",
)
def command(pictures: Path, out: Path, start: Path | None, **options: Any) -> None:
    """Train a score network on random crops of PICTURES, a folder of images or one large image.

    You may kill it at any time: the same command goes on from the last save. `sdedit export` takes OUT/ema.safetensors;
    OUT/samples.png and OUT/log.jsonl show the progress.
    """
    try:
        import safetensors  # noqa: F401 - run.py needs it
        import torch  # noqa: F401 - all of the following needs it
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"training needs the package {error.name}: {install_hint('export')}") from None
    o = argparse.Namespace(**options)
    config = network_config(o)
    options["sides"] = parse_sides(o.sides or str(o.size), config.multiple_of)
    names = [field.name for field in dataclasses.fields(Hyperparameters)]
    hyperparameters = Hyperparameters(**{name: options[name] for name in names})
    if hyperparameters.images < hyperparameters.batch:
        raise CheckpointError(f"images {hyperparameters.images} are fewer than a batch of {hyperparameters.batch}")
    largest = max(side for side, _ in hyperparameters.sides)
    crops, held_out = split(
        find_pictures(pictures, largest), o.hold_out, o.size, o.seed, parse_scales(o.scales), o.flat, o.turns
    )
    run_training(o, config, crops, held_out, out, start, hyperparameters)


def run_training(
    o: argparse.Namespace,
    config: "DDPMConfig",
    crops: Crops,
    held_out: Crops,
    out: Path,
    start: Path | None,
    hyperparameters: Hyperparameters,
) -> None:
    """Begin the run, or go on with it, and train until its end."""
    import numpy as np
    import torch

    from .run import make_folder, new_run, resume, start_from, train_only
    from .train import train

    run = new_run(config, o.prediction, o.schedule, getattr(torch, o.precision), o.device, o.seed)
    views = torch.from_numpy(np.stack([held_out[index] for index in range(HELD_OUT)])).to(o.device)
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
    if o.only is not None:
        train_only(run.network, o.only.split(","))
    make_folder(out)
    resume(run, out, metadata)
    run.small = o.small
    if o.compiled:
        compiled: Any = torch.compile(run.network, dynamic=False)  # a module again; it is compiled for each side
        run.trained = compiled
    parameters = sum(parameter.numel() for parameter in run.network.parameters())
    click.echo(f"{parameters} parameters, from image {run.seen} on")
    try:
        train(run, crops, views, out, metadata, hyperparameters)
    except ImageError as error:  # a worker's error comes after its traceback
        raise ImageError(str(error).splitlines()[-1].removeprefix("sdedit.errors.ImageError: ")) from None
    if run.seen <= hyperparameters.images - hyperparameters.batch:
        click.echo(f"the time is over at image {run.seen} of {hyperparameters.images}: the same command goes on")


def network_config(o: argparse.Namespace) -> "DDPMConfig":
    """The network that the options describe; raises CheckpointError, and ImageError for a malformed list."""
    from ..networks.ddpm import DDPMConfig

    multiples, attention = parse_numbers(o.multiples), parse_numbers(o.attention)
    if not multiples or min(multiples) < 1:
        raise CheckpointError(f"multiples {o.multiples!r} is not a list of numbers from 1 on, like 1,2,2")
    if not set(attention) <= set(range(len(multiples))):
        raise CheckpointError(f"attention {o.attention!r} has a level outside 0..{len(multiples) - 1}")
    config = DDPMConfig(3, o.size, o.width, multiples, o.blocks, attention, o.patch, o.patch > 1)
    if o.width % 32 or o.size % config.multiple_of:
        raise CheckpointError(f"width {o.width} must be a multiple of 32, size {o.size} one of {config.multiple_of}")
    return config


def main() -> None:
    """Run the command as this process."""
    run_command(command, "train")
