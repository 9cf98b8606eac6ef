"""Checkpoints on the Hugging Face Hub: which of a model's files are needed."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from sdedit.errors import CheckpointError

CONFIG = "config.json"
TEXTS = (".json", ".txt")
"""Endings of configs and vocabularies, which are small."""

WEIGHTS = (".safetensors", ".bin")
"""Endings of weights, the first one preferred."""

VARIANTS = (".fp16.", ".non_ema.", ".bf16.", ".ema_only.")
"""Parts of names of weights that are another form of the folder's main weights."""

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of checkpoints that are one file."""

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of a diffusers folder that no network of ours has."""

NAMED = 5
"""Most files that a message names."""


def needed_files(name: str, files: Sequence[str]) -> list[str]:
    """The files of a diffusers folder that loading reads: its configs, and the weights of each component once.

    name: hf:OWNER/NAME. Raises CheckpointError if the files are no such folder.
    """
    folders: dict[str, list[PurePosixPath]] = {}
    for file in map(PurePosixPath, files):
        if len(file.parts) <= 2 and file.parts[0] not in UNUSED:
            folders.setdefault(file.parent.as_posix(), []).append(file)
    if "unet_ema" in folders:
        folders.pop("unet", None)
    with_config = [members for members in folders.values() if any(member.name == CONFIG for member in members)]
    if not with_config:
        raise CheckpointError(
            f"{name}: the model is no diffusers folder, for it has no {CONFIG}; {advice(name, files)}"
        )
    texts = [file for members in folders.values() for file in members if file.suffix in TEXTS]
    return [str(file) for file in (*texts, *(file for members in with_config for file in weights(members)))]


def weights(members: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The files of a component's weights in the first format that it has, without other variants if it has the main."""
    for ending in WEIGHTS:
        found = [file for file in members if file.suffix == ending]
        main = [file for file in found if not any(variant in file.name for variant in VARIANTS)]
        if main or found:
            return main or found
    return []


def advice(name: str, files: Sequence[str]) -> str:
    """How to name one of the model's files that may be a checkpoint."""
    found = [file for file in files if file.endswith(FILES)]
    if not found:
        return f"nor has it a file that ends in {', '.join(FILES)}"
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"name one of its files, as in {name}/{found[0]}; the model has {', '.join(found[:NAMED])}{more}"
