"""The training loop.

Denoising score matching (Ho et al. 2020) of eps or v (Salimans & Ho 2022), by min-SNR (Hang et al. 2023) or unweighted.
Every step is a function of (seed, step), so a run that was killed goes on from its last save to the same weights.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sdedit.errors import CheckpointError

from .crops import Crops
from .quality import denoising_error, held_out_loss, sample, sheet
from .run import Run, report, save

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
    loader: DataLoader[Tensor] = DataLoader(
        crops,  # type: ignore[arg-type] # it has items, which is all that a loader with a sampler needs
        recipe.batch,
        sampler=numbers,
        num_workers=recipe.workers,
    )
    for x0 in loader:
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
