"""From a checkpoint to a canonical network: the container by its bytes (files.py), the family by its keys.

What keys and shapes tell is read from them; what they cannot tell comes from the file's own metadata or from what the
caller says by name (questions.py), and is never guessed. Nothing is ever unpickled beyond tensors and numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from sdedit.errors import CheckpointError

from . import adm, ddpm, diffusers, ncsnpp
from .common import Checkpoint, first_keys
from .files import Contents, read_contents

Said = Mapping[str, str | int | None]
"""Answers by name of the option, with underscores; None: not said."""


class Family(Protocol):
    """A module of this package. NAME: as `sdedit export --dry-run` shows it."""

    NAME: str

    def recognise(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether a network's names are this family's; shapes are not looked at."""

    def load(self, contents: Contents, said: Said) -> Checkpoint:
        """Build the network; raises CheckpointError for what is damaged, missing or not said."""


FAMILIES: tuple[Family, ...] = (ddpm, ncsnpp, adm)

STRANGERS = {
    "model.diffusion_model.": "a latent diffusion model, whose network does not work on pixels",
    "diffusion_model.": "a latent diffusion model, whose network does not work on pixels",
    "first_stage_model.": "an autoencoder of latent diffusion",
    "encoder.": "an autoencoder",
    "time_embedding.linear_1.": "a file of a diffusers folder, which is taken as a whole, and no network",
    "map_layer0.": "an EDM network",
    "model.map_layer0.": "an EDM network",
}
"""Beginnings of names of networks that are known and not taken."""


def load_contents(contents: Contents, said: Said) -> Checkpoint:
    """Load a file with the family that its names tell; raises CheckpointError."""
    for family in FAMILIES:
        if family.recognise(contents.tensors):
            return family.load(contents, said)
    known = ", ".join(family.NAME for family in FAMILIES)
    what = next((what for start, what in STRANGERS.items() if any(k.startswith(start) for k in contents.tensors)), "")
    raise CheckpointError(
        f"{contents.path}: {what or 'no network'} that is known here, by its keys ({first_keys(contents.tensors)}); "
        f"accepted are {known}"
    )


def load_checkpoint(path: str | Path, **said: str | int | None) -> Checkpoint:
    """Load a checkpoint (safetensors, a torch file of tensors alone, or a folder of diffusers) on the CPU.

    said: what the file does not tell, by name, such as prediction="eps", schedule="linear", size=256; which of them are
    needed depends on the family, and what is missing is named in one error. Raises CheckpointError.
    """
    path = Path(path)
    return diffusers.load(path, said) if diffusers.is_folder(path) else load_contents(read_contents(path), said)
