"""The training loop: denoising score matching (Ho et al. 2020) of eps or v (Salimans & Ho 2022).

Noise levels are weighted by min-SNR (Hang et al. 2023) or uniformly. Every step is a function of the seed and its
number, so a run that was killed goes on from its last save to the same weights.
"""

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sdedit.console import to_json
from sdedit.errors import CheckpointError

from .crops import Crops
from .hyperparameters import Hyperparameters
from .pattern import fit_pattern
from .progress import Progress
from .quality import denoising_error, held_out_loss, sample, sheet
from .run import Run, report, save


def weight(run: Run, k: Tensor, options: Hyperparameters) -> Tensor:
    """Weights [B] of the prediction's errors at levels k [B]; min-SNR weights the error of x0 by min(SNR, gamma)."""
    if options.weighting == "uniform":
        return torch.ones(k.shape, device=k.device)
    alpha, sigma, _ = run.schedule[k - 1].unbind(1)
    snr = (alpha / sigma).square()
    return snr.clamp(max=options.gamma) / (snr if run.prediction == "eps" else snr + 1)


def train_step(run: Run, x0: Tensor, seed: int, options: Hyperparameters) -> float:
    """Train on one batch x0 [B, C, H, W]; returns the weighted loss. Raises CheckpointError if it is not finite."""
    batch, levels, step = len(x0), len(run.schedule), run.seen // options.batch
    random = torch.Generator().manual_seed(seed << 32 | step)
    u = (torch.rand((), generator=random) + torch.arange(batch) / batch) % 1  # spread evenly: less variance
    k = ((u * levels).long() + 1).clamp(max=levels).to(x0.device)
    source = random if x0.device.type == "cpu" else torch.Generator(x0.device).manual_seed(seed << 32 | step)
    z = torch.randn(x0.shape, generator=source, device=x0.device)
    network = run.network if run.trained is None else run.trained
    errors = denoising_error(network, run.prediction, run.schedule, x0, k, z, run.precision)
    loss = (weight(run, k, options) * errors).mean()
    if not loss.isfinite():  # before it reaches the weights and a save
        raise CheckpointError(
            f"after image {run.seen} the loss is {loss.item()}, at --lr {options.lr}: try a lower one"
        )
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.seen, options)
    run.optimizer.step()
    decay = min(options.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.ema.parameters()), list(run.network.parameters()), 1 - decay)
    run.seen += options.batch
    return loss.item()


def learning_rate(seen: int, options: Hyperparameters) -> float:
    """A linear rise during warm-up (at most a tenth of the images), then a cosine down to 0."""
    warm_up = min(options.warm_up, options.images // 10)
    if seen < warm_up:
        return options.lr * (seen + 1) / warm_up
    part = (seen - warm_up) / (options.images - warm_up)
    return options.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


class Sided(Dataset[Tensor]):
    """Crops by number and side: float32 [3, side, side] in [-1, 1]."""

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        index, side = key
        return torch.from_numpy(replace(self.crops, size=side)[index])


class Steps:
    """The steps from image `first` to `last`: of each, the keys of its crops, all of one side.

    The side is drawn by the step's number. A step has as many pixels at each side, but one to `batch` crops.
    """

    def __init__(self, crops: Crops, first: int, last: int, options: Hyperparameters) -> None:
        self.seed, self.size = crops.seed, crops.size
        self.starts = range(first, last, options.batch)
        self.batch, self.sides = options.batch, options.sides or ((crops.size, 1.0),)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        sides, chances = zip(*self.sides, strict=True)
        for start in self.starts:
            random = np.random.default_rng((self.seed, start, len(sides)))
            side = int(random.choice(sides, p=np.divide(chances, sum(chances))))
            count = max(1, self.batch * self.size**2 // side**2)
            yield [(start + number, side) for number in range(min(count, self.batch))]


def train(
    run: Run, crops: Crops, views: Tensor, folder: Path, metadata: dict[str, str], options: Hyperparameters
) -> None:
    """Train until `run.seen` is `options.images` or the time is over, with a report and a save now and then."""
    device = run.schedule.device
    begun, losses = time.monotonic(), []
    saved = begun
    last = options.images - options.images % options.batch
    progress = Progress(run.seen, last, sys.stderr)
    loader: DataLoader[Tensor] = DataLoader(
        Sided(crops),
        batch_sampler=Steps(crops, run.seen, last, options),
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
    )
    for x0 in loader:
        losses.append(train_step(run, x0.to(device, non_blocking=True), crops.seed, options))
        progress.update(run.seen, losses[-1])
        if run.seen % options.report < options.batch:
            fit_pattern(run.ema, run.schedule, run.prediction)
            line = {
                "images": run.seen,
                "loss": round(sum(losses) / len(losses), 6),
                "held_out": round(held_out_loss(run.ema, run.prediction, run.schedule, views), 6),
                "images_per_second": round(progress.images_per_second, 2),
            }
            losses.clear()
            progress.clear()
            click.echo(to_json(line, indent=None))
            samples = sample(run.ema, run.prediction, run.schedule, (36, *views.shape[1:]))
            report(folder, line, sheet(samples, 6))
        if time.monotonic() - saved > 60 * options.save_minutes:
            save(run, folder, metadata)
            saved = time.monotonic()
        if options.minutes is not None and time.monotonic() - begun > 60 * options.minutes:
            break
    progress.clear()
    save(run, folder, metadata)
