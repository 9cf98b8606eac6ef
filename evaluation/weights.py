"""Quality of weights on views that they were not trained on: `python -m sdedit.evaluation.weights --help`.

Each checkpoint is exported to a temporary bundle, and its samples and edits are made by the Editor. Only the held-out
loss is computed in torch.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.weights")
    raise SystemExit

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from sdedit.console import Number, run_command, to_json
from sdedit.errors import CheckpointError
from sdedit.runtime import Editor
from sdedit_ref.checkpoints import Checkpoint, load_checkpoint
from sdedit_ref.training.crops import HELD_OUT, find_pictures, parse_scales, split

from .metrics import NEIGHBOURHOOD, grid, l2, sliced_wasserstein
from .views import cut, edit, paint, sample

T0, STEPS = 0.5, 25
"""t0 and steps of the edits."""

SAMPLER = "ddim"


@dataclass(frozen=True)
class Views:
    """Images, float32 [N, 3, H, W]: `strokes` are edited; the results are compared with `real` and `trained` views.

    known: held-out views for the loss.
    """

    strokes: np.ndarray
    real: np.ndarray
    trained: np.ndarray
    known: np.ndarray


@click.command(epilog="Example: python -m sdedit.evaluation.weights run/ema.safetensors photos/ --hold-out 50")
@click.argument("weights", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path))
@click.option("--hold-out", required=True, help="The same as in training.")
@click.option("--scales", default="1", show_default=True, help="The same as in training.")
@click.option("--turns", is_flag=True, help="The same as in training.")
@click.option("--flat", type=Number(0, 1), default=1.0, show_default=True, help="The same as in training.")
@click.option("--seed", default=0, show_default=True, help="The same as in training.")
@click.option(
    "--count", type=click.IntRange(min=2), default=128, show_default=True, help="Number of samples, and of edits."
)
@click.option("--steps", type=click.IntRange(min=1), default=50, show_default=True, help="DDIM steps of a sample.")
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
    """Measure WEIGHTS, one or several checkpoints of one image size, on what PICTURES hold out.

    Prints one line of JSON for each. held_out_loss: mean squared error of the prediction over ten noise levels.
    samples: sliced Wasserstein distance from samples of pure noise to held-out views, by octave, finest first.
    as_trained: the same to crops as in training, which may differ from held-out views. edits: distance from edits of
    stroke paintings (t0 = 0.5, 25 steps) to held-out views. l2: distance from edits to their strokes, pixels in [0, 1].
    grid: strength of a pattern of 2x2 pixels in the edits, in units of 1/255. The first line measures real views.
    """
    checkpoints = [load_checkpoint(path) for path in weights]
    shape = checkpoints[0].shape
    for checkpoint in checkpoints:
        check(checkpoint, shape)
    size = shape[1]
    kept, held_out = split(find_pictures(pictures, size), hold_out, size, seed, parse_scales(scales), flat, turns)
    others = cut(held_out, count, count)
    views = Views(paint(others), cut(held_out, 0, count), cut(kept, 0, count), cut(held_out, 0, HELD_OUT))
    click.echo(to_json({"weights": None, **distances(others, others, views)}, indent=None))
    for checkpoint in checkpoints:
        click.echo(to_json({"weights": str(checkpoint.path), **measure(checkpoint, views, steps)}, indent=None))


def measure(checkpoint: Checkpoint, views: Views, steps: int) -> dict[str, Any]:
    """The measurements of one checkpoint, by name."""
    loss = loss_of(checkpoint, views.known)
    with opened(checkpoint) as editor:
        schedule = editor.bundle.schedule
        levels, edited = (schedule.visit(t0, 1)[0] for t0 in (1.0, T0))
        samples = sample(editor, len(views.real), sampler=SAMPLER, steps=min(steps, levels))
        seeds = range(len(views.strokes))
        edits = edit(editor, views.strokes, seeds, t0=T0, sampler=SAMPLER, steps=min(STEPS, edited))
    return {
        "held_out_loss": round(loss, 6),
        **distances(samples, edits, views),
        "l2": round(l2(edits, views.strokes), 3),
    }


def loss_of(checkpoint: Checkpoint, known: np.ndarray) -> float:
    """The held-out loss, computed in torch."""
    import torch

    from sdedit_ref.training.quality import held_out_loss

    schedule = torch.from_numpy(checkpoint.schedule).float()
    return held_out_loss(checkpoint.network, checkpoint.prediction, schedule, torch.from_numpy(known))


@contextmanager
def opened(checkpoint: Checkpoint) -> Iterator[Editor]:
    """An editor on a temporary bundle of the checkpoint, with its weights in float32."""
    from sdedit.export.bundle import export_bundle

    with tempfile.TemporaryDirectory(prefix="sdedit-") as folder:
        path = Path(folder) / "bundle"
        export_bundle(checkpoint, path, name=checkpoint.path.stem, licence="unknown", weights="float32", fixed=True)
        with Editor.open(path) as editor:
            yield editor


def distances(samples: np.ndarray, edits: np.ndarray, views: Views) -> dict[str, Any]:
    """The measurements that real views have as well, by name."""
    return {
        "samples": rounded(sliced_wasserstein(samples, views.real)),
        "as_trained": rounded(sliced_wasserstein(samples, views.trained)),
        "edits": rounded(sliced_wasserstein(edits, views.real)),
        "grid": round(grid(edits), 3),
    }


def check(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> None:
    """Raise CheckpointError if the network cannot be measured here, or not together with one of that shape."""
    channels, height, width = checkpoint.shape
    if channels != 3 or height != width or checkpoint.prediction not in ("eps", "v"):
        raise CheckpointError(
            f"{checkpoint.path}: its network has {channels}x{height}x{width} images and predicts "
            f"{checkpoint.prediction}; square RGB images and eps or v are accepted"
        )
    if checkpoint.classes:
        raise CheckpointError(f"{checkpoint.path}: its network has classes; networks without are accepted")
    if height < NEIGHBOURHOOD:
        raise CheckpointError(
            f"{checkpoint.path}: its images have {height} pixels a side; at least {NEIGHBOURHOOD} are needed"
        )
    if checkpoint.shape != shape:
        raise CheckpointError(
            f"{checkpoint.path}: its images have {height} pixels a side, those of the first file {shape[1]}"
        )


def rounded(distances: list[float]) -> list[float]:
    return [round(distance, 4) for distance in distances]


def main() -> None:
    """Run the command as this process."""
    run_command(command, "weights")
