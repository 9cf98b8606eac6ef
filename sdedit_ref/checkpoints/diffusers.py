"""Folders of the diffusers package: a UNet2DModel and the scheduler of its training.

The diffusers package builds the network from the folder's config and the schedule from scheduler_config.json. We read
the weights ourselves, so that no code in the folder runs.
"""

import inspect
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sdedit.errors import CheckpointError, git_lfs_hint, install_hint, raise_interrupt, reason

from ..networks.unet2d import CanonicalUNet2D
from ..sde import variance_exploding, variance_preserving
from .building import NULL_LABEL, build_network, labels
from .checkpoint import Checkpoint
from .contents import Contents
from .ddpm import MAX_LEVELS, PREDICTIONS
from .files import read_contents
from .questions import SIZE, GivenAnswers, Question, ask, parse_size

NAME = "diffusers UNet2DModel"

UNET_CONFIGS = ("unet_ema/config.json", "unet/config.json", "config.json")
"""Places of the network, the one with averaged weights first."""
SCHEDULER_CONFIGS = ("scheduler/scheduler_config.json", "scheduler_config.json")
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.fp16.bin",
)
ACCEPTED = (
    "accepted is a folder of diffusers' UNet2DModel: unet/config.json and scheduler/scheduler_config.json, or both "
    "files at its top"
)
AUTOENCODERS = ("vae", "vqvae", "movq")
MAX_CONFIG_BYTES = 1 << 20
MAX_BLOCKS = 64
"""Most levels, and most layers in each, that a config may have: diffusers builds them before shapes are compared."""

MAX_SIGMA = 1e6

EXPLODING = "ScoreSdeVeScheduler"
PRESERVING = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
)
"""Schedulers of DDPM's training process; they differ in how they sample, which a bundle does not keep."""

PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}

EMA_OPTIONS = {"decay", "inv_gamma", "min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"}
"""Options in a network's config that EMAModel.save_pretrained adds: its weights are averages."""

RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names of an attention's parts before diffusers 0.15, and now."""


def is_folder(path: Path) -> bool:
    """Whether the path is a folder; False if that cannot be told."""
    try:
        return path.is_dir()
    except OSError:  # the name is too long; reading it as a file gives the error
        return False


def load(folder: Path, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. The folder states all answers; given ones come first."""
    try:
        refuse_latent(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from None
    return load_network(folder, given, (1, 3))


def load_network(folder: Path, given: GivenAnswers, channels: Sequence[int]) -> Checkpoint:
    """The folder's network with its schedule, of states with one of these numbers of channels. See `load`."""
    try:
        unet_path, unet = read_config(folder, UNET_CONFIGS, ("UNet2DModel",))
        scheduler_path, scheduler = read_config(folder, SCHEDULER_CONFIGS, (*PRESERVING, EXPLODING))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {reason(error)}") from None
    exploding = scheduler["_class_name"] == EXPLODING
    averaged = bool(unet.keys() & EMA_OPTIONS)
    unet = {name: value for name, value in unet.items() if name not in EMA_OPTIONS}
    unet, scheduler = with_defaults(unet_path, unet, strict=True), with_defaults(scheduler_path, scheduler)
    check_unet(unet_path, unet, channels, exploding, scheduler.get("variance_type"))
    schedule = (exploding_schedule if exploding else preserving_schedule)(scheduler_path, scheduler)
    rows = unet["num_class_embeds"] or 0
    answers = ask(
        folder,
        f"a {NAME}",
        given,
        Question("size", SIZE, size_of(unet["sample_size"])),
        Question("prediction", ("eps",) if exploding else PREDICTIONS, prediction_of(scheduler_path, scheduler)),
        *([NULL_LABEL] if rows else []),
    )
    multiple_of = 2 ** (len(unet["block_out_channels"]) - 1)
    height, width = parse_size(folder, answers["size"], multiple_of)
    classes, null_label = labels(folder, answers, rows) if rows else (0, None)
    contents = read_weights(unet_path.parent)
    return Checkpoint(
        folder.resolve(),
        sha256=contents.sha256,
        family=f"{NAME} of {scheduler['_class_name']}",
        network=CanonicalUNet2D(build_unet(contents, unet), unet["in_channels"], exploding),
        prediction=answers["prediction"],
        schedule_name=schedule_name(scheduler),
        schedule=schedule,
        shape=(unet["in_channels"], height, width),
        multiple_of=multiple_of,
        classes=classes,
        null_label=null_label,
        weights="EMA" if averaged else contents.weights,
        answers=answers,
    )


def refuse_latent(folder: Path) -> None:
    """Raise CheckpointError if an autoencoder lies beside the UNet2DModel, which then works on its output."""
    for name in AUTOENCODERS:
        if (folder / name).exists():
            raise CheckpointError(
                f"{folder}: holds {name}: its network works on an autoencoder's output, not on pixels"
            )


def read_config(folder: Path, places: Sequence[str], classes: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Path and content of the first JSON file among `places`, if of one of `classes`; raises CheckpointError."""
    path = next((folder / place for place in places if (folder / place).is_file()), None)
    if path is None:
        found = ", ".join(sorted(repr(entry.name)[:60] for entry in itertools.islice(folder.iterdir(), 4))) or "nothing"
        raise CheckpointError(f"{folder}: no {places[-1]} in it, but {found}; {ACCEPTED}")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        config = json.loads(text) if len(text) <= MAX_CONFIG_BYTES else None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read{git_lfs_hint(text) or f': {reason(error)}'}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no JSON object of at most {MAX_CONFIG_BYTES} bytes; {ACCEPTED}")
    if config.get("_class_name") not in classes:
        raise CheckpointError(
            f"{path}: _class_name {shown(config.get('_class_name'))} is not one of {', '.join(classes)}"
        )
    return path, config


def with_defaults(path: Path, config: dict[str, Any], strict: bool = False) -> dict[str, Any]:
    """The config, completed by its class's defaults. strict: refuse unknown options.

    Schedulers share their configs, so one may hold another's options. Raises CheckpointError, also if diffusers is not
    installed.
    """
    parameters = inspect.signature(diffusers_class(path, config["_class_name"]).__init__).parameters
    defaults = {name: it.default for name, it in parameters.items() if it.default is not it.empty}
    strangers = sorted(name for name in config if not name.startswith("_") and name not in defaults)
    if strict and strangers:
        raise CheckpointError(f"{path}: {strangers[0][:60]!r} is an option that this diffusers would ignore")
    return {**defaults, **config}


def diffusers_class(path: Path, name: str) -> Any:
    """A class of diffusers; raises CheckpointError if diffusers is not installed."""
    try:
        import diffusers
    except ImportError as error:
        raise_interrupt(error)
        raise CheckpointError(
            f"{path}: a diffusers folder needs the package {error.name}: {install_hint('diffusers')}"
        ) from None
    return getattr(diffusers, name)


def check_unet(
    path: Path, config: Mapping[str, Any], channels: Sequence[int], exploding: bool, variance_type: object
) -> None:
    """Raise CheckpointError unless it is a network of states, time and perhaps labels, small enough to be built.

    channels: accepted numbers of channels of the states.
    """
    images = config["in_channels"]
    learned = variance_type in ("learned", "learned_range")
    check(path, config, "in_channels", *channels)
    check(path, config, "out_channels", *((images, 2 * images) if learned else (images,)))
    check(path, config, "time_embedding_type", "fourier" if exploding else "positional")
    check(path, config, "class_embed_type", None)
    for name in ("down_block_types", "up_block_types", "block_out_channels"):
        if not isinstance(config[name], list | tuple) or not 1 <= len(config[name]) <= MAX_BLOCKS:
            raise CheckpointError(f"{path}: {name} is not a list of 1..{MAX_BLOCKS}")
    for name, most in (("layers_per_block", MAX_BLOCKS), ("num_class_embeds", MAX_LEVELS)):
        if config[name] is not None and not (type(config[name]) is int and 1 <= config[name] <= most):
            raise CheckpointError(f"{path}: {name} {shown(config[name])} is not a number in 1..{most}")


def shown(value: object) -> str:
    """A config's value in an error message."""
    return repr(value)[:60]


def check(path: Path, config: Mapping[str, Any], name: str, *accepted: object) -> None:
    """Raise CheckpointError unless the option has one of these values."""
    if not any(type(config[name]) is type(value) and config[name] == value for value in accepted):
        raise CheckpointError(f"{path}: {name} {shown(config[name])} is not {' or '.join(map(str, accepted))}")


def build_unet(contents: Contents, config: Mapping[str, Any]) -> nn.Module:
    """The diffusers package's network with the file's tensors; raises CheckpointError."""

    def build() -> nn.Module:
        options = {name: value for name, value in config.items() if not name.startswith("_")}
        try:
            return diffusers_class(contents.path, "UNet2DModel")(**options)
        except Exception as error:  # diffusers raises a dozen types for wrong configs
            raise ValueError(reason(error)) from None

    return build_network(current_names(contents), f"{NAME} of its config.json", build)


def current_names(contents: Contents) -> Contents:
    """The contents by the names of today's diffusers."""
    tensors = {current_name(name): tensor for name, tensor in contents.tensors.items()}
    frequencies = tensors.pop("time_proj.W", None)  # old files hold them twice
    if frequencies is not None:
        tensors = {"time_proj.weight": frequencies, **tensors}
    averaged = None if contents.averaged is None else frozenset(map(current_name, contents.averaged))
    return replace(contents, tensors=tensors, averaged=averaged)


def current_name(name: str) -> str:
    """A tensor's name in today's diffusers."""
    old = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))", name)
    return old[1] + RENAMED[old[2]] + old[3] if old else name


def read_weights(folder: Path) -> Contents:
    """The network's tensors, safetensors first; raises CheckpointError."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder}: holds none of {', '.join(WEIGHTS)}; weights in several files are not read")
    return read_contents(path)


def preserving_schedule(path: Path, config: Mapping[str, Any]) -> np.ndarray:
    """The schedule of diffusers' betas, which are float32; raises CheckpointError."""
    if config.get("rescale_betas_zero_snr"):
        raise CheckpointError(f"{path}: rescale_betas_zero_snr true is not taken: its last level is noise alone")
    return variance_preserving(betas_of(path, config))


def betas_of(path: Path, config: Mapping[str, Any]) -> np.ndarray:
    """The betas of the training, float64 [T] in (0, 1), the last 1 with rescale_betas_zero_snr.

    Raises CheckpointError.
    """
    count_levels(path, config)
    if config.get("timestep_type", "discrete") != "discrete":
        raise CheckpointError(f"{path}: timestep_type {shown(config['timestep_type'])} is not 'discrete'")
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    zero_snr = bool(config.get("rescale_betas_zero_snr"))
    options = {name: config[name] for name in names} | ({"rescale_betas_zero_snr": True} if zero_snr else {})
    try:
        scheduler = diffusers_class(path, "DDIMScheduler" if zero_snr else config["_class_name"])(**options)
        betas: np.ndarray = scheduler.betas.double().numpy()
    except Exception as error:  # diffusers raises a dozen types
        raise CheckpointError(f"{path}: makes no schedule: {reason(error)}") from None
    inside = betas if not zero_snr else betas[:-1]
    if betas.ndim != 1 or not 1 <= len(betas) <= MAX_LEVELS or not ((inside > 0) & (inside < 1)).all():
        raise CheckpointError(f"{path}: its betas are not all between 0 and 1")
    return betas


def exploding_schedule(path: Path, config: Mapping[str, Any]) -> np.ndarray:
    """The schedule from sigma_min to sigma_max, for data in [0, 1]; raises CheckpointError."""
    levels = count_levels(path, config)
    low, high = config["sigma_min"], config["sigma_max"]
    if not all(isinstance(sigma, int | float) for sigma in (low, high)) or not 0 < low < high <= MAX_SIGMA:
        raise CheckpointError(
            f"{path}: sigma_min {shown(low)}, sigma_max {shown(high)}: not 0 < sigma_min < sigma_max <= {MAX_SIGMA:g}"
        )
    return variance_exploding(levels, low, high)


def count_levels(path: Path, config: Mapping[str, Any]) -> int:
    """num_train_timesteps; raises CheckpointError."""
    levels = config["num_train_timesteps"]
    if type(levels) is not int or not 2 <= levels <= MAX_LEVELS:
        raise CheckpointError(f"{path}: num_train_timesteps {shown(levels)} is not a number in 2..{MAX_LEVELS}")
    return levels


def prediction_of(path: Path, config: Mapping[str, Any]) -> str:
    """prediction_type in our words; raises CheckpointError."""
    named = config.get("prediction_type", "epsilon")  # ScoreSdeVeScheduler has none
    if not isinstance(named, str) or named not in PREDICTION_TYPES:
        raise CheckpointError(f"{path}: prediction_type {shown(named)} is not one of {', '.join(PREDICTION_TYPES)}")
    return PREDICTION_TYPES[named]


def schedule_name(config: Mapping[str, Any]) -> str:
    """The schedule's name for the manifest."""
    if config["_class_name"] == EXPLODING:
        return "ve"
    return "trained_betas" if config["trained_betas"] is not None else str(config["beta_schedule"])


def size_of(sample_size: object) -> str | None:
    """A config's sample_size in the form of --size; None if the config has none."""
    if isinstance(sample_size, list | tuple):
        return "x".join(map(str, sample_size))
    return None if sample_size is None else str(sample_size)
