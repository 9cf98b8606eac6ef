"""guided-diffusion ("ADM") and improved-diffusion: one family of networks, which differ in their options alone.

A file does not show attention order, heads, schedule, steps and image size, so they are questions. For a released file
one of PRESETS answers them, if the caller names it: other networks have the same shapes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from sdedit.errors import CheckpointError

from ..networks.adm import ADM, ATTENTION_ORDERS, ADMConfig
from ..sde import cosine, variance_preserving
from .building import NULL_LABEL, build_network, count, filters, labels
from .checkpoint import Checkpoint
from .contents import Contents
from .ddpm import MAX_LEVELS
from .questions import NUMBER, SIZE, YES_OR_NO, Answers, GivenAnswers, Question, ask, parse_number, parse_size

NAME = "guided-diffusion or improved-diffusion network"

PREDICTIONS = ("eps", "x0")
SCHEDULES = ("linear", "cosine")
TRAINED_STEPS = 1000
"""Number of steps that rescale_timesteps scales times to, and for which the betas of `linear` are published."""


@dataclass(frozen=True)
class Preset:
    """A released network: its config, and the diffusion process of its training."""

    config: ADMConfig
    schedule: str = "linear"
    steps: int = 1000
    rescale_timesteps: bool = False

    def answers(self) -> dict[str, str]:
        """Answers to the questions of `load`."""
        config = self.config
        by_number = config.head_channels is None
        return {
            "attention_order": config.attention_order,
            "heads" if by_number else "head_channels": str(config.heads if by_number else config.head_channels),
            "schedule": self.schedule,
            "steps": str(self.steps),
            "rescale_timesteps": "yes" if self.rescale_timesteps else "no",
            "size": str(config.size),
        }


def _guided(**options: object) -> ADMConfig:
    return replace(ADMConfig(head_channels=64), **options)  # type: ignore[arg-type] # fields of ADMConfig


def _improved(**options: object) -> ADMConfig:
    common = {"width": 128, "blocks": 3, "attention": (2, 3), "heads": 4, "resampling_blocks": False}
    return replace(ADMConfig(), **{**common, **options})  # type: ignore[arg-type] # fields of ADMConfig


SMALL = (1, 2, 3, 4)
PRESETS: dict[str, Preset] = {
    "64x64_diffusion": Preset(
        _guided(
            size=64,
            width=192,
            width_multiples=SMALL,
            blocks=3,
            attention=(1, 2, 3),
            attention_order="new",
            classes=1000,
        ),
        "cosine",
    ),
    "128x128_diffusion": Preset(
        ADMConfig(size=128, width_multiples=(1, 1, 2, 3, 4), attention=(2, 3, 4), heads=4, classes=1000)
    ),
    "256x256_diffusion": Preset(_guided(classes=1000)),
    "256x256_diffusion_uncond": Preset(_guided()),
    "lsun_bedroom": Preset(_guided()),
    "lsun_cat": Preset(_guided()),
    "lsun_horse": Preset(_guided()),
    "512x512_diffusion": Preset(
        _guided(size=512, width_multiples=(0.5, 1, 1, 2, 2, 4, 4), attention=(4, 5, 6), classes=1000)
    ),
    "imagenet64_uncond_100M": Preset(_improved(size=64, width_multiples=SMALL), "cosine", 4000, True),
    "imagenet64_cond_270M": Preset(_improved(size=64, width=192, width_multiples=SMALL, classes=1000), "cosine", 4000),
    "cifar10_uncond_50M": Preset(
        _improved(size=32, width_multiples=(1, 2, 2, 2), attention=(1, 2)), "cosine", 4000, True
    ),
    "lsun_uncond_100M": Preset(_improved(blocks=2, attention=(4,), heads=1, scale_shift_norm=False)),
}
"""Released files, with the flags in the two READMEs; improved-diffusion's names lack their number of iterations."""


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    return "time_embed.0.weight" in tensors and "input_blocks.0.0.weight" in tensors


def load(contents: Contents, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. The answer `preset` answers all questions of a released file."""
    path = contents.path
    refuse_others(contents)
    shapes = read_config(contents)
    answers = ask_all(contents, shapes, given)
    height, width = parse_size(path, answers["size"], shapes.multiple_of)
    config = replace(complete(contents, shapes, answers), size=height)
    classes, null_label = labels(path, answers, config.classes) if config.classes else (0, None)
    return Checkpoint(
        path,
        sha256=contents.sha256,
        family=NAME,
        network=build_network(contents, NAME, lambda: ADM(config)),
        prediction=answers["prediction"],
        schedule_name=answers["schedule"],
        schedule=read_schedule(contents, answers),
        shape=(config.channels, height, width),
        multiple_of=config.multiple_of,
        classes=classes,
        null_label=null_label,
        weights=contents.weights,
        answers=answers,
        notes=("the learned variance is left out: no sampler uses it",) if config.learned_variance else (),
    )


def refuse_others(contents: Contents) -> None:
    """Raise CheckpointError for networks that have these keys but do not make images from noise."""
    tensors = contents.tensors
    stem = tensors["input_blocks.0.0.weight"]
    channels = stem.shape[1] if filters(stem) else 0
    other = None
    if any(".transformer_blocks." in key for key in tensors) or channels in (4, 8, 9):
        other = "a latent diffusion network, which does not work on pixels"
    elif not any(key.startswith("output_blocks.") for key in tensors):
        other = "a classifier of guided-diffusion, for it has no output_blocks"
    elif channels == 6:
        other = "an upsampler, for it takes a small image as three further channels"
    elif channels not in (1, 3):
        other = f"damaged: input_blocks.0.0.weight is {list(stem.shape)}, not [filters, 1 or 3, 3, 3]"
    if other:
        raise CheckpointError(f"{contents.path}: {other}; accepted is a network that makes images from noise")


def read_config(contents: Contents) -> ADMConfig:
    """The options that shapes show; raises CheckpointError.

    On the way up, the last block of each level but the finest doubles the resolution.
    """
    tensors = contents.tensors
    width = columns(tensors["time_embed.0.weight"])
    rows = count(tensors, r"output_blocks\.(\d+)\.")
    doubling = sorted({int(match[1]) for match in map(DOUBLING.match, tensors) if match})
    blocks = doubling[0] if doubling else rows - 1
    levels = rows // (blocks + 1) if blocks > 0 else 0
    first = [f"input_blocks.{1 + level * (blocks + 1)}" for level in range(levels)]
    widths = [filters(tensors.get(f"{row}.0.in_layers.2.weight")) for row in first]
    if not width or not levels or rows % (blocks + 1) or any(not w or w % 32 for w in widths):
        raise CheckpointError(
            f"{contents.path}: damaged: its input_blocks and output_blocks do not form a U-Net of base width {width}"
        )
    channels = tensors["input_blocks.0.0.weight"].shape[1]
    return ADMConfig(
        channels=channels,
        width=width,
        width_multiples=tuple(w / width for w in widths),
        blocks=blocks,
        attention=tuple(level for level, row in enumerate(first) if f"{row}.1.qkv.weight" in tensors),
        scale_shift_norm=rows_of(tensors.get(f"{first[0]}.0.emb_layers.1.weight")) == 2 * widths[0],
        resampling_blocks=f"input_blocks.{blocks + 1}.0.in_layers.2.weight" in tensors,
        learned_variance=filters(tensors.get("out.2.weight")) == 2 * channels,
        classes=rows_of(tensors.get("label_emb.weight")),
    )


DOUBLING = re.compile(r"output_blocks\.(\d{1,6})\.(?:[12]\.in_layers\.2|[12]\.conv)\.weight$")
"""A second residual block, or an Upsample's convolution, after a row's own residual block."""


def ask_all(contents: Contents, shapes: ADMConfig, given: GivenAnswers) -> Answers:
    """The answers; a given one comes before the preset's. Raises CheckpointError."""
    fitting = [name for name, preset in PRESETS.items() if without_answers(preset.config) == without_answers(shapes)]
    preset = given.get("preset")
    if preset is not None and preset not in fitting:
        accepted = ", ".join(fitting) or "none"
        raise CheckpointError(
            f"{contents.path}: preset {str(preset)!r} does not have the shapes of this file; accepted: {accepted}"
        )
    known = {} if preset is None else PRESETS[str(preset)].answers()
    answered = {**known, **{name: str(value) for name, value in given.items() if value is not None}}
    heads = "head_channels" if "head_channels" in answered and given.get("heads") is None else "heads"
    rescaled = answered.get("steps") != str(TRAINED_STEPS) or given.get("rescale_timesteps") is not None
    questions = [
        Question("attention_order", ATTENTION_ORDERS, known.get("attention_order")),
        Question(heads, NUMBER, known.get(heads)),
        Question("schedule", SCHEDULES, known.get("schedule")),
        Question("steps", NUMBER, known.get("steps")),
        *([Question("rescale_timesteps", YES_OR_NO, known.get("rescale_timesteps"))] if rescaled else []),
        Question("size", SIZE, known.get("size")),
        Question("prediction", PREDICTIONS, "eps"),
        *([NULL_LABEL] if shapes.classes else []),
    ]
    released = f"; or, if it is that released file, --preset {'|'.join(fitting)}" if fitting else ""
    return ask(
        contents.path,
        f"a {NAME}",
        {name: value for name, value in given.items() if name != "preset"},
        *questions,
        origin="by convention" if preset is None else f"from {preset}",
        hint=f"(or --head-channels NUMBER for --heads{released})",
    )


def without_answers(config: ADMConfig) -> ADMConfig:
    """The config with the options that shapes do not show set to fixed values."""
    return replace(config, size=0, heads=1, head_channels=None, attention_order=ATTENTION_ORDERS[0])


def complete(contents: Contents, shapes: ADMConfig, answers: Answers) -> ADMConfig:
    """The config with the answered attention; raises CheckpointError if heads do not divide its channels."""
    name = "heads" if "heads" in answers.values else "head_channels"
    number = parse_number(contents.path, name, answers[name], 1, max(shapes.widths))
    config = replace(shapes, attention_order=answers["attention_order"])
    config = replace(config, heads=number) if name == "heads" else replace(config, head_channels=number)
    for width in {config.widths[-1], *(config.widths[level] for level in config.attention)}:
        if width % number:
            raise CheckpointError(f"{contents.path}: {name} {number} does not divide {width} channels of an attention")
    return config


def read_schedule(contents: Contents, answers: Answers) -> np.ndarray:
    """The answered schedule; raises CheckpointError."""
    steps = parse_number(contents.path, "steps", answers["steps"], 1, MAX_LEVELS)
    if answers["schedule"] == "linear" and steps <= 20:
        raise CheckpointError(f"{contents.path}: steps {steps} are too few for the schedule linear: more than 20")
    return training_schedule(answers["schedule"], steps, steps != TRAINED_STEPS and answers.yes("rescale_timesteps"))


def training_schedule(name: str, steps: int, rescale_timesteps: bool) -> np.ndarray:
    """float64 [steps, 3]. With more steps, the betas of both SCHEDULES approach one process; linear needs 21."""
    scale = TRAINED_STEPS / steps
    betas = np.linspace(1e-4 * scale, 0.02 * scale, steps)
    schedule = cosine(steps) if name == "cosine" else variance_preserving(betas)
    schedule[:, 2] *= scale if rescale_timesteps else 1
    return schedule


def columns(weight: Tensor) -> int:
    """Columns of the time embedding's matrix; 0 if odd, since cosines and sines come in pairs, or if no matrix."""
    return weight.shape[1] if weight.ndim == 2 and weight.numel() and weight.shape[1] % 2 == 0 else 0


def rows_of(weight: Tensor | None) -> int:
    """Rows of a matrix; 0 for any other tensor."""
    return len(weight) if weight is not None and weight.ndim == 2 and weight.numel() else 0
