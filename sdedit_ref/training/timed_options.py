"""Options that the commands share whose training takes a given time."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdedit.console import Number
from sdedit.errors import SdeditError, install_hint, raise_interrupt

from .crops import Crops, find_pictures, parse_scales, split
from .hyperparameters import PRECISIONS

if TYPE_CHECKING:
    from .timed import Pace

COUNT = click.IntRange(min=1)
POSITIVE = Number(min=0, min_open=True)
option = functools.partial(click.option, show_default=True)

OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.argument("pictures", type=click.Path(path_type=Path)),
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path),
        help="Folder of the run. A run goes on from its last save.",
    ),
    option("--minutes", type=POSITIVE, default=60.0, help="Length of training; the learning rate ends at 0 with it."),
    option(
        "--report-minutes", type=POSITIVE, default=5.0, help="Time between two reports, which come on top, and saves."
    ),
    option("--batch", type=COUNT, default=32, help="Images per step."),
    option("--lr", type=POSITIVE, default=4e-4, help="Learning rate at its peak (AdamW)."),
    option(
        "--ema",
        type=Number(0, 1, max_open=True),
        default=0.999,
        help="Decay per step of the averaged weights, which are the result.",
    ),
    option("--precision", type=click.Choice(PRECISIONS), default="float32", help="Arithmetic."),
    option("--device", type=click.Choice(("cpu", "cuda")), default="cpu", help="Where to compute."),
    option("--scales", default="1", help="Reductions before a crop, with their chances: SCALE:CHANCE,..."),
    click.option("--turns", is_flag=True, help="Use quarter turns as well as mirror images."),
    option("--flat", type=Number(0, 1), default=1.0, help="Share of the even, nearly grey crops that is used."),
    click.option("--hold-out", help="Not trained on: LEFT,TOP,RIGHT,BOTTOM of one picture, or every N-th of a folder."),
    option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of weights, crops and noise."),
)


def timed_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give the command the shared options."""
    for each in reversed(OPTIONS):
        command = each(command)
    return command


def check_packages() -> None:
    """Raise SdeditError where a package is missing that training needs."""
    try:
        import diffusers  # noqa: F401
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"training needs the package {error.name}: {install_hint('diffusers')}") from None


def crops_of(o: argparse.Namespace, size: int) -> tuple[Crops, Crops]:
    """Crops to train on, and held-out crops, of `size` pixels. Raises ImageError."""
    paths = find_pictures(o.pictures, size)
    return split(paths, o.hold_out, size, o.seed, parse_scales(o.scales), o.flat, o.turns)


def pace_of(o: argparse.Namespace) -> "Pace":
    """Length and pace of training."""
    from .timed import Pace

    return Pace(o.minutes, o.lr, o.ema, o.report_minutes)
