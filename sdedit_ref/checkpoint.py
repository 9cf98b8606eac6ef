"""From a checkpoint file to a network: sniff the container by its bytes, recognise the family by its keys.

What keys and shapes tell is read from them; what they cannot tell comes from the file's own metadata or from what the
caller says by name, and is never guessed. Nothing is ever unpickled beyond tensors.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdedit.errors import CheckpointError, reason

from .networks.ddpm import DDPM, DDPMConfig
from .sde import SCHEDULES

PREDICTIONS = ("eps", "v", "x0")
MAX_HEADER_BYTES = 100_000_000
MAX_LEVELS = 1_000_000
"""What a bundle's schedule holds."""
MAX_SIZE = 16384
"""Pixels of a side; an RGB image of that size still has fewer elements than the noise can count."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded score network and all that the runtime must know of it."""

    path: Path
    sha256: str
    network: DDPM
    prediction: str
    schedule_name: str
    schedule: np.ndarray


def load_checkpoint(
    path: str | Path, *, prediction: str | None = None, schedule: str | None = None, size: int | None = None
) -> Checkpoint:
    """Load a DDPM checkpoint (safetensors, or a torch file of tensors alone) on the CPU.

    prediction (eps, v, x0), schedule (linear, cosine) and size (pixels) override the file's metadata and are needed
    where it has none. Raises CheckpointError.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    _check_family(path, tensors)
    known = {
        "prediction": metadata.get("prediction") if prediction is None else prediction,
        "schedule": metadata.get("betas") if schedule is None else schedule,
        "size": metadata.get("image_size") if size is None else size,
    }
    missing = [name for name, value in known.items() if value is None]
    if missing:
        raise CheckpointError(
            f"{path}: its keys do not tell {', '.join(missing)}: say "
            + " ".join(f"--{name} {_accepted(name)}" for name in missing)
        )
    _check_choice(path, "prediction", str(known["prediction"]), PREDICTIONS)
    _check_choice(path, "schedule", str(known["schedule"]), tuple(SCHEDULES))
    try:
        pixels, patch = int(str(known["size"])), int(metadata.get("patch", 1))
        levels = int(metadata.get("timesteps", 1000))
    except ValueError:
        raise CheckpointError(f"{path}: size, patch or timesteps in its metadata is not a number") from None
    if not 1 <= levels <= MAX_LEVELS:
        raise CheckpointError(f"{path}: timesteps {levels} in its metadata is not in 1..{MAX_LEVELS}")
    network = build_network(path, ddpm_config(path, tensors, pixels, patch), tensors)
    name = str(known["schedule"])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(path, sha256, network.eval(), str(known["prediction"]), name, SCHEDULES[name](levels))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A file's tensors, as float32 on the CPU, and its metadata; raises CheckpointError, and executes nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    if is_safetensors(head, path.stat().st_size):
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return _read_torch(path), {}
    raise CheckpointError(f"{path} is neither a safetensors nor a torch file; it begins with {head[:8]!r}")


def is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header size, then a JSON object."""
    header = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and 2 <= header <= min(size - 8, MAX_HEADER_BYTES)


def build_network(path: Path, config: DDPMConfig, tensors: dict[str, Tensor]) -> DDPM:
    """The network around these tensors; it is laid out on the meta device, so only a shape that fits takes memory."""
    try:
        with torch.device("meta"):
            network = DDPM(config)
        network.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit the DDPM network its keys describe: {reason(error)}") from None
    return network


def ddpm_config(path: Path, tensors: Mapping[str, Tensor], size: int, patch: int) -> DDPMConfig:
    """Read the network's shape from its parameters' shapes."""
    conv_in = tensors["conv_in.weight"]
    width = _filters(conv_in)
    if not width or width % 32:
        raise CheckpointError(f"{path}: damaged: conv_in.weight is {list(conv_in.shape)}, not [32 n, channels, 3, 3]")
    channels = conv_in.shape[1]
    levels = _count(tensors, r"down\.(\d+)\.")
    blocks = _count(tensors, r"down\.0\.block\.(\d+)\.")
    widths = [_filters(tensors.get(f"down.{i}.block.0.conv1.weight")) for i in range(levels)]
    if not levels or not blocks or any(w < width or w % width for w in widths):
        raise CheckpointError(f"{path}: damaged: its down.* blocks do not form a U-Net of width {width}")
    if patch < 1 or channels not in (patch**2, 3 * patch**2):
        raise CheckpointError(f"{path}: conv_in takes {channels} channels: no grey or RGB image in patches of {patch}")
    config = DDPMConfig(
        channels=channels // patch**2,
        size=size,
        width=width,
        width_multiples=tuple(w // width for w in widths),
        blocks=blocks,
        attention=tuple(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        patch=patch,
    )
    if not 1 <= size <= MAX_SIZE or size % config.multiple_of:
        raise CheckpointError(f"{path}: size {size} is not a multiple of {config.multiple_of} in 1..{MAX_SIZE}")
    return config


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: _float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {reason(error)}") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        raise CheckpointError(f"{path}: not a torch file of tensors alone, or damaged: {reason(error)}") from None
    if not isinstance(content, dict) or not all(map(_is_plain, content.values())):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; accepted is a dict of float tensors by name")
    return {str(key): _float32(value) for key, value in content.items()}


def _check_family(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for key in ("temb.dense.0.weight", "conv_in.weight"):
        if key not in tensors:
            found = ", ".join(map(repr, sorted(tensors)[:3])) or "none"
            raise CheckpointError(f"{path}: no DDPM checkpoint: {key} is not among its keys ({found}, ...)")


def _filters(weight: Tensor | None) -> int:
    """How many filters a convolution's weight holds; 0 where it is no such weight."""
    return len(weight) if weight is not None and weight.ndim == 4 and weight.numel() else 0


def _is_plain(value: object) -> bool:
    """A tensor of floating-point numbers, all of them in the file."""
    return (
        isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided and not value.is_meta
    )


def _float32(value: Tensor) -> Tensor:
    """A copy in aligned memory: torch's results depend on the alignment, and the file's differs by container."""
    return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the keys have there."""
    return len({match.group(1) for match in (re.match(pattern, key) for key in tensors) if match})


def _check_choice(path: Path, name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise CheckpointError(f"{path}: {name} {value!r} is not one of {', '.join(accepted)}")


def _accepted(name: str) -> str:
    choices = {"prediction": "|".join(PREDICTIONS), "schedule": "|".join(SCHEDULES), "size": "PIXELS"}
    return choices[name]
