"""Training for a length of time: the learning rate follows the clock, so the run ends well when its time does.

A run that was killed goes on from its last save; it is not the same to the bit, for no two machines are as fast.
"""

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sdedit.console import to_json
from sdedit.errors import CheckpointError, reason

from ..storage import why_unreadable
from .progress import duration
from .run import PART, STATE, check_same, report

WARM_UP = 0.05
"""Share of the time in which the learning rate rises."""

CHECKED = 20
"""Steps between two looks at the loss: on a GPU a look waits for all steps before it."""


@dataclass(frozen=True)
class Pace:
    """minutes: length of training. lr: learning rate at its peak. ema: decay of the averages per step.

    report_minutes: time between two reports, each with a save.
    """

    minutes: float
    lr: float
    ema: float
    report_minutes: float


@dataclass
class TimedRun:
    """State of a run. network: what is trained. ema: its averages, the result. seconds, steps, images: so far.

    metadata: facts that a run goes on with, or not at all.
    """

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    pace: Pace
    metadata: Mapping[str, str]
    seconds: float = 0.0
    steps: int = 0
    images: int = 0

    @property
    def share(self) -> float:
        """Share of the time that is over."""
        return self.seconds / (60 * self.pace.minutes)


def new_run(network: nn.Module, device: str, pace: Pace, metadata: Mapping[str, str]) -> TimedRun:
    """A run of that network, whose parameters are its whole state. Raises CheckpointError where there is no GPU."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise CheckpointError("device cuda: torch finds no GPU; cpu is accepted")
        torch.backends.cudnn.benchmark = True  # the sizes of batches do not change
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # stubs lack memory_format
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(network.parameters(), pace.lr, fused=device == "cuda")
    return TimedRun(network, ema, optimizer, pace, metadata)


def learning_rate(share: float, peak: float) -> float:
    """A linear rise in the first WARM_UP of the time, times a cosine down to 0. share: of the time that is over."""
    return peak * min(1.0, share / WARM_UP + 1e-3) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def take_step(run: TimedRun, loss: Tensor) -> None:
    """One step of the optimizer, and of the averages."""
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = list(run.network.parameters())
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(run.share, run.pace.lr)
    run.optimizer.step()
    decay = min(run.pace.ema, (1 + run.steps) / (10 + run.steps))
    get_ema_multi_avg_fn(decay)(list(run.ema.parameters()), parameters, None)
    run.steps += 1


def train(
    run: TimedRun,
    folder: Path,
    loss_of: Callable[[int], tuple[Tensor, int]],
    measure: Callable[[], tuple[dict[str, float], Image.Image]],
) -> None:
    """Train until the time is over, with a report and a save now and then and at the end.

    loss_of: loss of step number n, and how many images it saw. measure: facts on the averages for the log, and a
    picture. Raises CheckpointError if a loss is not finite.
    """
    begun, before = time.monotonic(), run.seconds
    losses: list[Tensor] = []
    reported = run.seconds
    while run.share < 1:
        loss, images = loss_of(run.steps)
        take_step(run, loss)
        run.images += images
        losses.append(loss.detach())
        run.seconds = before + time.monotonic() - begun
        if len(losses) % CHECKED == 0 or run.share >= 1:
            check_finite(run, losses[-CHECKED:])
        due = run.seconds - reported >= 60 * run.pace.report_minutes
        if due or run.share >= 1:
            check_finite(run, losses)
            tell(run, folder, float(torch.stack(losses).mean()), measure)
            losses, reported = [], run.seconds
            begun, before = time.monotonic(), run.seconds  # reports come on top of the time


def check_finite(run: TimedRun, losses: list[Tensor]) -> None:
    """Raise CheckpointError if a loss is not finite: nothing is saved after it."""
    if not torch.stack(losses).isfinite().all():
        raise CheckpointError(
            f"before step {run.steps} the loss was not finite, at --lr {run.pace.lr}: try a lower one"
        )


def tell(run: TimedRun, folder: Path, loss: float, measure: Callable[[], tuple[dict[str, float], Image.Image]]) -> None:
    """Report on the run, and save it."""
    facts, picture = measure()
    line: dict[str, Any] = {
        "images": run.images,
        "steps": run.steps,
        "seconds": round(run.seconds, 1),
        "loss": round(loss, 6),
        **{name: round(value, 6) for name, value in facts.items()},
    }
    click.echo(to_json(line, indent=None))
    report(folder, line, picture)
    save_state(run, folder)
    sys.stderr.write(f"{duration(60 * run.pace.minutes - run.seconds)} left\n" if run.share < 1 else "")


def save_state(run: TimedRun, folder: Path) -> None:
    """Write STATE, complete or not at all. Raises CheckpointError; the save before stays."""
    state = {
        "network": run.network.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "numbers": [run.seconds, run.steps, run.images],
        "metadata": dict(run.metadata),
    }
    temporary = folder / PART
    try:
        torch.save(state, temporary)
        temporary.replace(folder / STATE)
    except Exception as error:  # torch raises its own types for a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{folder} cannot be saved to: {reason(error)}; the save before stands") from None


def resume(run: TimedRun, folder: Path) -> None:
    """Go on from the folder's last save, if it has one. Raises CheckpointError if it is of another run or damaged."""
    path = folder / STATE
    if not path.exists():
        return
    if problem := why_unreadable(path):
        raise CheckpointError(f"{path} {problem}")
    try:
        state = torch.load(path, map_location=next(run.network.parameters()).device, weights_only=True)
        before = dict(state["metadata"])
        check_same(path, before, run.metadata, run.metadata)
        run.network.load_state_dict(state["network"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.seconds, run.steps, run.images = state["numbers"]
    except CheckpointError:
        raise
    except Exception as error:  # damaged files raise a dozen types
        raise CheckpointError(f"{path} is of another network, or damaged: {reason(error)}") from None
