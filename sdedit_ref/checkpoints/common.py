"""What every family gives, and what they share to read a network's shape from its tensors."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sdedit.errors import CheckpointError, reason

from .questions import NUMBER, Answers, Question, parse_number


@dataclass(frozen=True)
class Checkpoint:
    """A loaded score network and all that export and the runtime must know of it.

    network: canonical: x float32 [B, C, H, W] of data in [-1, 1], time float32 [B] (the schedule's third column) and,
    where classes > 0, label int64 [B] -> float32 [B, C, H, W], which is `prediction`. schedule: float64 [T, 3].
    shape: C, H, W of its images, of which multiple_of divides H and W. classes: how many labels it takes; 0: none.
    null_label: the label that stands for no class, or None. weights: "EMA" or "as trained". answers: what shapes did
    not tell. notes: what else --dry-run says.
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
        """What was recognised, for people, by name."""
        sigma = self.schedule[:, 1]
        facts = {
            "family": self.family,
            "weights": self.weights,
            "parameters": f"{sum(parameter.numel() for parameter in self.network.parameters()):,}",
            "image": f"{'x'.join(map(str, self.shape))}, sides are multiples of {self.multiple_of}",
            "prediction": self.prediction,
            "schedule": f"{self.schedule_name}, {len(sigma)} levels, sigma {sigma[0]:.4g} to {sigma[-1]:.4g}",
            "labels": f"{self.classes}, null label {self.null_label}" if self.classes else "none",
        }
        return {**facts, "answers": self.answers.told(), **{f"note {n}": note for n, note in enumerate(self.notes, 1)}}


NULL_LABEL = Question("null_label", NUMBER, "none")
"""Which label was trained to stand for no class; files do not say whether there is one."""


def labels(path: Path, answers: Answers, rows: int) -> tuple[int, int | None]:
    """classes and null_label of a network that embeds `rows` labels, by the answer to NULL_LABEL.

    A null label behind all others is not one of the classes. Raises CheckpointError.
    """
    if answers[NULL_LABEL.name] == "none":
        return rows, None
    null = parse_number(path, NULL_LABEL.name, answers[NULL_LABEL.name], 0, rows - 1)
    return (null if null == rows - 1 and null else rows), null


def build_network(
    path: Path,
    family: str,
    build: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    shadow: Sequence[Tensor] | None = None,
) -> nn.Module:
    """The network around these tensors; it is laid out on the meta device, so only a shape that fits takes memory.

    shadow: tensors without names that come before the named ones, for the trained parameters in their order. Raises
    CheckpointError unless names and shapes are exactly the network's.
    """
    try:
        with torch.device("meta"):
            network = build()
        if shadow is not None:
            tensors = {**tensors, **_name(network, shadow)}
        network.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not fit the {family} its keys describe: {reason(error)}") from None
    return network.eval().requires_grad_(False)


def _name(network: nn.Module, shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if len(names) != len(shadow):
        raise ValueError(f"{len(shadow)} averaged tensors for {len(names)} trained parameters")
    return dict(zip(names, shadow, strict=True))


def first_keys(tensors: Mapping[str, Tensor]) -> str:
    """Some names, for an error."""
    return f"{', '.join(repr(key)[:80] for key in sorted(tensors)[:3]) or 'none'}, ..."


def filters(weight: Tensor | None) -> int:
    """How many filters a convolution's weight holds; 0 where it is no such weight."""
    return len(weight) if weight is not None and weight.ndim == 4 and weight.numel() else 0


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the keys have there."""
    return len({match.group(1) for match in (re.match(pattern, key) for key in tensors) if match})
