"""Checkpoint: a loaded score network and the facts about it that export needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from .questions import Answers


@dataclass(frozen=True)
class Tokenizer:
    """A CLIP tokenizer. vocabulary: token -> id. merges: pairs, the first merged first. bos, eos, pad: ids of marks."""

    vocabulary: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]
    bos: int
    eos: int
    pad: int


@dataclass(frozen=True)
class TextParts:
    """How a latent network takes text.

    encoders: tokens int64 [B, length] for each tokenizer -> context [B, length, D], and pooled [B, P] where the network
    takes it. guidance: free, embedded or none. zero_negative: without a negative text the unconditional pass has zeros.
    """

    encoders: nn.Module
    tokenizers: tuple[Tokenizer, ...]
    length: int
    guidance: str
    zero_negative: bool


@dataclass(frozen=True)
class LatentParts:
    """The parts around a latent network. encoder: image [B, 3, H, W] in [-1, 1] -> latent; decoder: back.

    factor: pixels that a cell of the latent is high and wide. text: None for networks that take none. suggested:
    options of an edit that suit the model.
    """

    encoder: nn.Module
    decoder: nn.Module
    factor: int
    text: TextParts | None
    suggested: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A loaded score network and all that export and the runtime must know of it.

    network: canonical. Its inputs are x float32 [B, C, H, W] for data in [-1, 1], time float32 [B] (the schedule's
    third column) and, if classes > 0, label int64 [B]; its output, float32 [B, C, H, W], is `prediction`.
    schedule: float64 [T, 3], see docs/design.md, contract 1.
    shape: C, H, W of the states; multiple_of divides H and W.
    classes: number of labels, 0 for none. null_label: the label that stands for no class, or None.
    weights: "EMA", "as trained" or "as saved". answers: the facts that shapes do not show.
    notes: further facts for --dry-run. inputs: shapes, without the batch, of further float32 inputs that the network
    takes by name. latent: the parts around a network of latents; None: it works on pixels.
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
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    latent: LatentParts | None = None

    def facts(self) -> dict[str, str]:
        """Facts that were recognised, by name, for people to read."""
        sigma = self.schedule[:, 1]
        facts = {
            "family": self.family,
            "weights": self.weights,
            "parameters": f"{sum(parameter.numel() for parameter in self.network.parameters()):,}",
            "image" if self.latent is None else "latent": (
                f"{'x'.join(map(str, self.shape))}, sides are multiples of {self.multiple_of}"
            ),
            "prediction": self.prediction,
            "schedule": f"{self.schedule_name}, {len(sigma)} levels, sigma {sigma[0]:.4g} to {sigma[-1]:.4g}",
            "labels": f"{self.classes}, null label {self.null_label}" if self.classes else "none",
            "answers": self.answers.describe(),
        }
        if self.latent is not None:
            facts |= latent_facts(self.latent, self.inputs)
        return facts | {f"note {number}": note for number, note in enumerate(self.notes, 1)}


def latent_facts(parts: LatentParts, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Facts about the parts around a latent network, for people to read."""

    def size(module: nn.Module) -> str:
        return f"{sum(parameter.numel() for parameter in module.parameters()):,} parameters"

    vae = getattr(parts.encoder, "vae", parts.encoder)
    text = parts.text
    autoencoder = {"autoencoder": f"{type(vae).__name__}, factor {parts.factor}, {size(vae)}"}
    if text is None:
        return {**autoencoder, "text": "none"}
    return {
        **autoencoder,
        "text": f"{len(text.tokenizers)} encoders, {text.length} tokens, {size(text.encoders)}",
        "guidance": text.guidance,
        "inputs": ", ".join(f"{name} {list(shape)}" for name, shape in inputs.items()),
        "suggested": ", ".join(f"{name} {value}" for name, value in parts.suggested.items()),
    }
