"""Train a score network on pictures: `python -m sdedit_ref.train --help`.

Denoising score matching (Ho et al. 2020) of eps or v (Salimans & Ho 2022), by min-SNR (Hang et al. 2023) or unweighted.
Every step is a function of (seed, step), so a run that was killed goes on from its last save to the same weights.
"""

import argparse
import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from sdedit.errors import CheckpointError, ImageError

from .command import run_command
from .crops import HELD_OUT, Crops, find_pictures, parse_numbers, parse_scales, split
from .networks.ddpm import DDPMConfig
from .quality import denoising_error, held_out_loss, sample, sheet
from .run import Run, make_folder, new_run, report, resume, save, start_from
from .sde import SCHEDULES

COUNT = click.IntRange(min=1)
POSITIVE = click.FloatRange(min=0, min_open=True)
SEEDS = click.IntRange(0, 2**32 - 1)
WEIGHTINGS = ("min-snr", "uniform")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Recipe:
    """How long and how fast. images, warm_up, report: counted in images. ema: decay a step.

    weighting: "min-snr", with the bound gamma, or "uniform".
    """

    images: int
    batch: int
    lr: float
    warm_up: int
    ema: float
    weighting: str
    gamma: float
    report: int
    save_minutes: float
    workers: int


def weight(run: Run, k: Tensor, recipe: Recipe) -> Tensor:
    """Of the error of what is predicted, for levels k [B]. min-SNR: x0's own counts min(SNR, gamma)."""
    if recipe.weighting == "uniform":
        return torch.ones(k.shape, device=k.device)
    alpha, sigma, _ = run.schedule[k - 1].unbind(1)
    snr = (alpha / sigma).square()
    return snr.clamp(max=recipe.gamma) / (snr if run.prediction == "eps" else snr + 1)


def train_step(run: Run, x0: Tensor, seed: int, recipe: Recipe) -> float:
    """One batch x0 [B, C, H, W]; returns the weighted loss. Raises CheckpointError where it is infinite or NaN."""
    batch, levels, step = len(x0), len(run.schedule), run.seen // len(x0)
    random = torch.Generator().manual_seed(seed << 32 | step)
    u = (torch.rand((), generator=random) + torch.arange(batch) / batch) % 1  # spread evenly: less variance
    k = ((u * levels).long() + 1).clamp(max=levels).to(x0.device)
    z = torch.randn(x0.shape, generator=random).to(x0.device)
    errors = denoising_error(run.network, run.prediction, run.schedule, x0, k, z, run.precision)
    loss = (weight(run, k, recipe) * errors).mean()
    if not loss.isfinite():  # now, before it is in the weights and in a save of them
        raise CheckpointError(f"after image {run.seen} the loss is {loss.item()}, at --lr {recipe.lr}: try a lower one")
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.seen, recipe)
    run.optimizer.step()
    decay = min(recipe.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(run.ema.parameters(), run.network.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
    run.seen += batch
    return loss.item()


def learning_rate(seen: int, recipe: Recipe) -> float:
    """Up in a line while warming up, for at most a tenth of the images, then down on a cosine to 0."""
    warm_up = min(recipe.warm_up, recipe.images // 10)
    if seen < warm_up:
        return recipe.lr * (seen + 1) / warm_up
    part = (seen - warm_up) / (recipe.images - warm_up)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def train(run: Run, crops: Crops, views: Tensor, folder: Path, metadata: dict[str, str], recipe: Recipe) -> None:
    """Train until `recipe.images` were seen; a line of log.jsonl and a new samples.png every `recipe.report` images."""
    device = run.schedule.device
    saved = started = time.monotonic()
    first, losses = run.seen, []
    numbers = range(run.seen, recipe.images - recipe.images % recipe.batch)
    for x0 in DataLoader(Subset(crops, numbers), recipe.batch, num_workers=recipe.workers):
        losses.append(train_step(run, x0.to(device), crops.seed, recipe))
        if run.seen % recipe.report < recipe.batch:
            line = {
                "images": run.seen,
                "loss": round(sum(losses) / len(losses), 6),
                "held_out": round(held_out_loss(run.ema, run.prediction, run.schedule, views), 6),
                "images_per_second": round((run.seen - first) / (time.monotonic() - started), 2),
            }
            losses.clear()
            click.echo(json.dumps(line))
            samples = sample(run.ema, run.prediction, run.schedule, (36, *x0.shape[1:]))
            report(folder, line, sheet(samples, 6))
        if time.monotonic() - saved > 60 * recipe.save_minutes:
            save(run, folder, metadata)
            saved = time.monotonic()
    save(run, folder, metadata)


@click.command(epilog="Example: python -m sdedit_ref.train photos/ --out run --size 64 --patch 2 --images 500000")
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
