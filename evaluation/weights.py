"""How good weights are, on views they were not trained on: `python -m sdedit.evaluation.weights --help`."""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from sdedit.console import run_command
from sdedit.errors import CheckpointError
from sdedit.runtime.images.strokes import stroke_painting
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.training.crops import HELD_OUT, Crops, find_pictures, parse_scales, split
from sdedit_ref.training.quality import edit, held_out_loss, sample, sheet

from .metrics import NEIGHBOURHOOD, grid, sliced_wasserstein


@click.command(epilog="Example: python -m sdedit.evaluation.weights run/ema.safetensors photos/ --hold-out 50")
@click.argument("weights", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--hold-out", required=True, help="As in training.")
@click.option("--scales", default="1", show_default=True, help="As in training.")
@click.option("--turns", is_flag=True, help="As in training.")
@click.option("--flat", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="As in training.")
@click.option("--seed", default=0, show_default=True, help="As in training.")
@click.option("--count", type=click.IntRange(min=2), default=128, show_default=True, help="Samples, and views.")
@click.option("--steps", type=click.IntRange(min=1), default=50, show_default=True, help="Of a sample, by DDIM.")
def command(
    weights: tuple[Path, ...],
    pictures: Path,
    hold_out: str,
    scales: str,
    turns: bool,
    flat: float,
    seed: int,
    count: int,
    steps: int,
) -> None:
    """Measure WEIGHTS, one file or several of networks of one size, on what PICTURES hold out; a line of JSON each.

    held_out_loss: mean squared error of the prediction over ten noise levels. samples: sliced Wasserstein distance of
    samples from pure noise to held-out views, by octave, finest first; as_trained: to crops as they were trained on,
    from which held-out views may differ. edits: distance to held-out views of stroke paintings of others, edited from
    t0 = 0.5 in 25 steps; l2: how far they are from their strokes, pixels in [0, 1]; grid: how strong a pattern of 2x2
    pixels they have, of 255. The first line has the real views' own.
    """
    checkpoints = [load_checkpoint(path) for path in weights]
    shape = checkpoints[0].shape
    for checkpoint in checkpoints:
        check(checkpoint, shape)
    size = shape[1]
    kept, held_out = split(find_pictures(pictures, size), hold_out, size, seed, parse_scales(scales), flat, turns)
    real, others, trained = views(held_out, count, 0), views(held_out, count, count), views(kept, count, 0)
    click.echo(json.dumps({"weights": None, **distances(others, others, real, trained)}))
    guides = torch.stack([strokes(view) for view in others])
    known = views(held_out, HELD_OUT, 0)
    for checkpoint in checkpoints:
        line = {"weights": str(checkpoint.path), **measure(checkpoint, known, guides, real, trained, steps)}
        click.echo(json.dumps(line))


def measure(
    checkpoint: Checkpoint, known: Tensor, guides: Tensor, real: Tensor, trained: Tensor, steps: int
) -> dict[str, Any]:
    schedule = torch.from_numpy(checkpoint.schedule).float()
    network, prediction = checkpoint.network, checkpoint.prediction
    samples = sample(network, prediction, schedule, tuple(real.shape), steps)
    edits = edit(network, prediction, schedule, guides)
    return {
        "held_out_loss": round(held_out_loss(network, prediction, schedule, known), 6),
        **distances(samples, edits, real, trained),
        "l2": round(float((edits - guides).flatten(1).norm(dim=1).mean()) / 2, 3),
    }


def distances(samples: Tensor, edits: Tensor, real: Tensor, trained: Tensor) -> dict[str, Any]:
    return {
        "samples": rounded(sliced_wasserstein(samples, real)),
        "as_trained": rounded(sliced_wasserstein(samples, trained)),
        "edits": rounded(sliced_wasserstein(edits, real)),
        "grid": round(grid(edits), 3),
    }


def strokes(view: Tensor) -> Tensor:
    """A view [3, H, W] in [-1, 1] as `sdedit strokes` paints it."""
    painting = np.asarray(stroke_painting(sheet(view[None], 1)), np.float32)
    return torch.from_numpy(painting.transpose(2, 0, 1) / 127.5 - 1)


def check(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> None:
    """Raises CheckpointError for a network that cannot be measured here, or not together with one of that shape."""
    channels, height, width = checkpoint.shape
    if channels != 3 or height != width or checkpoint.prediction not in ("eps", "v"):
        raise CheckpointError(
            f"{checkpoint.path}: a network of {channels}x{height}x{width} that predicts {checkpoint.prediction}; "
            "accepted are square RGB images, eps and v"
        )
    if height < NEIGHBOURHOOD:
        raise CheckpointError(
            f"{checkpoint.path}: images of {height} pixels are less than the {NEIGHBOURHOOD} measured"
        )
    if checkpoint.shape != shape:
        raise CheckpointError(f"{checkpoint.path}: its images have {height} pixels, those of the first {shape[1]}")


def views(held_out: Crops, count: int, first: int) -> Tensor:
    """float32 [count, 3, size, size]"""
    return torch.stack([held_out[index] for index in range(first, first + count)])


def rounded(distances: list[float]) -> list[float]:
    return [round(distance, 4) for distance in distances]


if __name__ == "__main__":
    run_command(command, "evaluate")
