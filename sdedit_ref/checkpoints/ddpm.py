"""The U-Net of DDPM: files of SDEdit, of DDIM, of pesser's conversions, and of our own training."""

from collections.abc import Mapping

from torch import Tensor

from sdedit.errors import CheckpointError

from ..networks.ddpm import DDPM, DDPMConfig
from ..sde import SCHEDULES
from .building import build_network, count, filters, first_keys
from .checkpoint import Checkpoint
from .contents import Contents
from .questions import SIZE, GivenAnswers, Question, ask, parse_size

NAME = "DDPM network"

PREDICTIONS = ("eps", "v", "x0")
MAX_LEVELS = 1_000_000
"""Most levels of a bundle's schedule."""


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    return "temb.dense.0.weight" in tensors


def load(contents: Contents, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. Files of our own training state the answers in their metadata."""
    path, tensors, metadata = contents.path, contents.tensors, contents.metadata
    if "conv_in.weight" not in tensors:
        raise CheckpointError(f"{path}: no {NAME}: conv_in.weight is not among its keys ({first_keys(tensors)})")
    answers = ask(
        path,
        f"a {NAME}",
        given,
        Question("prediction", PREDICTIONS, metadata.get("prediction")),
        Question("schedule", tuple(SCHEDULES), metadata.get("betas")),
        Question("size", SIZE, metadata.get("image_size")),
    )
    try:
        patch, levels = int(metadata.get("patch", 1)), int(metadata.get("timesteps", 1000))
    except ValueError:
        raise CheckpointError(f"{path}: patch or timesteps in its metadata is not a number") from None
    if not 1 <= levels <= MAX_LEVELS:
        raise CheckpointError(f"{path}: timesteps {levels} in its metadata is not in 1..{MAX_LEVELS}")
    config, shape = read_config(contents, answers["size"], patch)
    return Checkpoint(
        path,
        sha256=contents.sha256,
        family=NAME,
        network=build_network(contents, NAME, lambda: DDPM(config)),
        prediction=answers["prediction"],
        schedule_name=answers["schedule"],
        schedule=SCHEDULES[answers["schedule"]](levels),
        shape=shape,
        multiple_of=config.multiple_of,
        weights="EMA" if "betas" in metadata else contents.weights,  # our training saves averages alone
        answers=answers,
    )


def read_config(contents: Contents, size: str, patch: int) -> tuple[DDPMConfig, tuple[int, int, int]]:
    """The network's configuration from its parameters' shapes, and C, H, W; raises CheckpointError."""
    path, tensors = contents.path, contents.tensors
    conv_in = tensors["conv_in.weight"]
    width = filters(conv_in)
    if not width or width % 32:
        raise CheckpointError(f"{path}: damaged: conv_in.weight is {list(conv_in.shape)}, not [32 n, channels, 3, 3]")
    channels = conv_in.shape[1]
    levels = count(tensors, r"down\.(\d+)\.")
    blocks = count(tensors, r"down\.0\.block\.(\d+)\.")
    widths = [filters(tensors.get(f"down.{i}.block.0.conv1.weight")) for i in range(levels)]
    if not levels or not blocks or any(w < width or w % width for w in widths):
        raise CheckpointError(f"{path}: damaged: its down.* blocks do not form a U-Net of width {width}")
    if patch < 1 or channels not in (patch**2, 3 * patch**2):
        raise CheckpointError(f"{path}: conv_in takes {channels} channels: no grey or RGB image in patches of {patch}")
    height, wide = parse_size(path, size, patch * 2 ** (levels - 1))
    config = DDPMConfig(
        channels=channels // patch**2,
        size=height,
        width=width,
        width_multiples=tuple(w // width for w in widths),
        blocks=blocks,
        attention=tuple(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        patch=patch,
        pattern="pattern.gain.weight" in tensors,
    )
    return config, (config.channels, height, wide)
