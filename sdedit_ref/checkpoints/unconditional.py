"""Folders of diffusers with a UNet2DModel that works on an autoencoder's latents and takes no text.

Training of ours writes them (sdedit_ref.training.latents): unet/, vae/ and scheduler/.
"""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from sdedit.errors import CheckpointError

from . import diffusers
from .checkpoint import Checkpoint
from .latent import AUTOENCODERS, digest, load_part, parts_around
from .questions import GivenAnswers

NAME = "diffusers latent model without text"


def is_folder(folder: Path) -> bool:
    """Whether the folder has an autoencoder, and a UNet2DModel beside it."""
    with suppress(OSError, ValueError, RecursionError):  # ValueError: no JSON, or no text
        if (folder / "vae" / "config.json").is_file():
            config = json.loads((folder / "unet" / "config.json").read_bytes())
            return isinstance(config, dict) and config.get("_class_name") == "UNet2DModel"
    return False


def load(folder: Path, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. The folder states all answers but for `vae`, another folder."""
    given = dict(given)
    other = given.pop("vae", None)
    for name in ("distilled", "like"):
        if given.pop(name, None) is not None:
            raise CheckpointError(f"{folder}: --{name} goes with a latent text-to-image pipeline")
    vae_folder = folder / "vae" if other is None else Path(str(other))
    vae = load_part(vae_folder, AUTOENCODERS)
    found = diffusers.load_network(folder, given, (vae.config.latent_channels,))
    suggested = dict.fromkeys(("t0", "steps", "sampler", "guidance"))
    return replace(
        found,
        sha256=digest([folder, *([] if other is None else [vae_folder])]),
        family=found.family.replace(diffusers.NAME, NAME),
        latent=parts_around(vae, None, suggested),
    )
