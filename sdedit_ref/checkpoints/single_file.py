"""Single files of the original Stable Diffusion code: U-Net, autoencoder and text encoders in one safetensors file.

Such a file has neither configurations nor a tokenizer: a diffusers folder of the same kind, which needs no weights,
has them. diffusers' own loader translates the names, without a network connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sdedit.errors import CheckpointError

from ..storage import why_unreadable
from .files import HEAD_BYTES, is_safetensors

UNET, AUTOENCODER = "model.diffusion_model.", "first_stage_model."
TEXT = {
    "cond_stage_model.transformer.": 0,
    "conditioner.embedders.0.transformer.": 0,
    "conditioner.embedders.1.model.": 1,
}
"""Beginnings of the names of text encoders that are taken whole, and which encoder each is. Of SD 2's, whose names
begin with cond_stage_model.model, the last layer is left out."""

NOT_WEIGHTS = ("position_ids", "logit_scale")
"""Ends of names that the networks do not need."""

AVERAGES = "model_ema."
"""Beginning of the names of the U-Net's averages, which the loader prefers."""

FEWEST_AVERAGES = 100
"""diffusers' loader takes averages if there are more."""

Load = Callable[..., Any]


@dataclass(frozen=True)
class Networks:
    """A pipeline's networks, in float32. encoders: of the text. averaged: whether the U-Net's weights are averages."""

    unet: Any
    vae: Any
    encoders: list[Any]
    averaged: bool = False


def is_single_file(path: Path) -> bool:
    """Whether it is a safetensors file with a U-Net and an autoencoder by the original code's names."""
    try:
        if why_unreadable(path):
            return False
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not is_safetensors(head[:9], path.stat().st_size):
            return False
        names = names_in(path)
    except (OSError, ValueError, SafetensorError):  # reading it as any other file says what is wrong
        return False
    return all(any(name.startswith(start) for name in names) for start in (UNET, AUTOENCODER))


def load_networks(path: Path, folder: Path, load: Load, encoders: int) -> Networks:
    """The file's networks. folder: has the configurations. load: of the pipeline's class. encoders: their number.

    Raises CheckpointError if the file has not as many numbers as the networks that the folder describes.
    """
    pipeline = load(str(path), config=str(folder), extract_ema=True)
    texts = [getattr(pipeline, name) for name in ("text_encoder", "text_encoder_2")[:encoders]]
    averaged = sum(name.startswith(AVERAGES) for name in names_in(path)) > FEWEST_AVERAGES
    found = Networks(pipeline.unet.eval(), pipeline.vae.eval(), [text.eval() for text in texts], averaged)
    sizes = sizes_of(path)
    parts = {UNET: found.unet, AUTOENCODER: found.vae}
    parts |= {start: found.encoders[number] for start, number in TEXT.items() if start in sizes and number < encoders}
    for start, network in parts.items():  # the loader leaves what is missing at random
        wanted = sum(parameter.numel() for parameter in network.parameters())
        if sizes[start] != wanted:
            raise CheckpointError(
                f"{path} has {sizes[start]:,} numbers in {start}*, {folder} describes {wanted:,}: "
                "name a folder of the same kind by --like"
            )
    return found


def names_in(path: Path) -> list[str]:
    """Names of a safetensors file's tensors."""
    with safe_open(path, framework="pt") as opened:
        return list(opened.keys())


def sizes_of(path: Path) -> dict[str, int]:
    """Numbers of the weights in each part that the file has, by the beginning of their names."""
    sizes: dict[str, int] = {}
    with safe_open(path, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            start = next((start for start in (UNET, AUTOENCODER, *TEXT) if name.startswith(start)), None)
            if start is not None and not name.endswith(NOT_WEIGHTS):
                count = 1
                for side in opened.get_slice(name).get_shape():
                    count *= side
                sizes[start] = sizes.get(start, 0) + count
    return sizes
