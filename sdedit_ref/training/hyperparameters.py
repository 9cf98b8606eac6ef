"""Choices of a training run, without torch."""

from collections.abc import Sequence
from dataclasses import dataclass

WEIGHTINGS = ("min-snr", "uniform")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Hyperparameters:
    """Length and pace of training.

    images, warm_up, report: numbers of images. batch: images of a step. sides: sides of the crops, with their chances;
    the crops of a step have one side, and as many pixels at each, so that an image counts by its pixels. lr: learning
    rate at its peak. ema: decay of the averages per step. weighting: one of WEIGHTINGS; gamma bounds min-snr.
    save_minutes: time between saves. workers: processes that cut crops. minutes: after which the run saves and ends, to
    be continued; None: at its last image.
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
    minutes: float | None = None
    sides: Sequence[tuple[int, float]] = ()
