"""Loading a checkpoint: its bytes show the container (files.py), its keys show the family of networks.

Keys and shapes show most of a network. The file's own metadata or the caller answers the rest (questions.py); nothing
is guessed. Loading unpickles tensors and numbers only, and never runs code stored in a file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from sdedit.errors import CheckpointError

from . import adm, ddpm, diffusers, latent, ncsnpp, single_file, unconditional
from .building import first_keys
from .checkpoint import Checkpoint
from .contents import Contents
from .files import read_contents
from .questions import GivenAnswers


class Family(Protocol):
    """A module of this package that loads one family of networks. NAME: for `sdedit export --dry-run`."""

    NAME: str

    def recognise(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the names of the tensors are this family's, whatever their shapes."""

    def load(self, contents: Contents, given: GivenAnswers) -> Checkpoint:
        """Build the network; raises CheckpointError for damage, missing tensors and missing answers."""


FAMILIES: tuple[Family, ...] = (ddpm, ncsnpp, adm)

STRANGERS = {
    "model.diffusion_model.": "a latent diffusion model without an autoencoder, or no safetensors file",
    "diffusion_model.": "a latent diffusion model, which does not work on pixels",
    "first_stage_model.": "an autoencoder of latent diffusion",
    "encoder.": "an autoencoder",
    "time_embedding.linear_1.": "one file of a diffusers folder, which is loaded as a whole",
    "map_layer0.": "an EDM network",
    "model.map_layer0.": "an EDM network",
}
"""Beginnings of tensor names of known networks that are not accepted."""


def load_contents(contents: Contents, given: GivenAnswers) -> Checkpoint:
    """Load a file with the family that its tensors' names show; raises CheckpointError."""
    for family in FAMILIES:
        if family.recognise(contents.tensors):
            return family.load(contents, given)
    accepted = f"accepted are {', '.join(family.NAME for family in FAMILIES)}"
    keys = first_keys(contents.tensors)
    for start, what in STRANGERS.items():
        if any(key.startswith(start) for key in contents.tensors):
            raise CheckpointError(f"{contents.path} is {what} ({keys}); {accepted}")
    raise CheckpointError(f"{contents.path} holds no known network, by its keys ({keys}); {accepted}")


def load_checkpoint(path: str | Path, **answers: str | int | None) -> Checkpoint:
    """Load a checkpoint (safetensors, a torch file of tensors alone, or a diffusers folder) on the CPU.

    A safetensors file of a whole latent pipeline needs like=FOLDER (single_file.py).

    answers: facts that the file does not state, by name, such as prediction="eps", schedule="linear", size=256. The
    family decides which are needed; one error names all that are missing. Raises CheckpointError.
    """
    path = Path(path)
    if latent.is_pipeline(path) or single_file.is_single_file(path):
        return latent.load(path, answers)
    if unconditional.is_folder(path):
        return unconditional.load(path, answers)
    for name in ("vae", "distilled", "like"):
        if answers.pop(name, None) is not None:
            raise CheckpointError(f"{path}: --{name} goes with a folder of a latent text-to-image pipeline")
    if diffusers.is_folder(path):
        return diffusers.load(path, answers)
    return load_contents(read_contents(path), answers)
