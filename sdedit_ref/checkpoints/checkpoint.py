"""Checkpoint: a loaded score network and the facts about it that export needs."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import nn

from .questions import Answers


@dataclass(frozen=True)
class Checkpoint:
    """A loaded score network and all that export and the runtime must know of it.

    network: canonical. Its inputs are x float32 [B, C, H, W] for data in [-1, 1], time float32 [B] (the schedule's
    third column) and, if classes > 0, label int64 [B]; its output, float32 [B, C, H, W], is `prediction`.
    schedule: float64 [T, 3], see docs/design.md, contract 1.
    shape: C, H, W of the images; multiple_of divides H and W.
    classes: number of labels, 0 for none. null_label: the label that stands for no class, or None.
    weights: "EMA", "as trained" or "as saved". answers: the facts that shapes do not show.
    notes: further facts for --dry-run.
    """

    path: Path
    sha256: str
    family: str
    network: nn.Module
    prediction: str
    schedule_name: str
    schedule: np.ndarray
    shape: tuple[int, int, int]
    multiple_of: int
    classes: int = 0
    null_label: int | None = None
    weights: str = "as trained"
    answers: Answers = field(default_factory=lambda: Answers({}, frozenset()))
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, str]:
        """Facts that were recognised, by name, for people to read."""
        sigma = self.schedule[:, 1]
        facts = {
            "family": self.family,
            "weights": self.weights,
            "parameters": f"{sum(parameter.numel() for parameter in self.network.parameters()):,}",
            "image": f"{'x'.join(map(str, self.shape))}, sides are multiples of {self.multiple_of}",
            "prediction": self.prediction,
            "schedule": f"{self.schedule_name}, {len(sigma)} levels, sigma {sigma[0]:.4g} to {sigma[-1]:.4g}",
            "labels": f"{self.classes}, null label {self.null_label}" if self.classes else "none",
            "answers": self.answers.describe(),
        }
        return facts | {f"note {number}": note for number, note in enumerate(self.notes, 1)}
