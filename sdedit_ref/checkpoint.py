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
from torch import Tensor

from sdedit.errors import CheckpointError
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.sde import SCHEDULES

PREDICTIONS = ("eps", "v", "x0")
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Checkpoint:
    """A loaded score network and all that the runtime must know of it."""

    path: Path
    sha256: str
    network: DDPM
    prediction: str
    schedule_name: str
    schedule: np.ndarray
    source: str


def load_checkpoint(
    path: str | Path, *, prediction: str | None = None, schedule: str | None = None, size: int | None = None
) -> Checkpoint:
    """Load a DDPM checkpoint (safetensors, or a torch file of tensors alone) on the CPU.

    prediction (eps, v, x0), schedule (linear, cosine) and size (pixels) override the file's metadata and are needed
    where it has none. Raises CheckpointError.
    """
    path = Path(path)
    tensors, metadata = read_tensors(path)
    if "temb.dense.0.weight" not in tensors or "conv_in.weight" not in tensors:
        found = ", ".join(sorted(tensors)[:3]) or "none"
        raise CheckpointError(f"{path}: no DDPM checkpoint: temb.dense.0.weight is not among its keys ({found}, ...)")
    known = {
        "prediction": prediction or metadata.get("prediction"),
        "schedule": schedule or metadata.get("betas"),
        "size": size or metadata.get("image_size"),
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
    config = ddpm_config(path, tensors, pixels, patch)
    network = DDPM(config)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: does not fit the DDPM network its keys describe: {reason[:300]}") from None
    name = str(known["schedule"])
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    origin = metadata.get("source", "")
    return Checkpoint(path, sha256, network.eval(), str(known["prediction"]), name, SCHEDULES[name](levels), origin)


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


def ddpm_config(path: Path, tensors: Mapping[str, Tensor], size: int, patch: int) -> DDPMConfig:
    """Read the network's shape from its parameters' shapes."""
    width, channels = tensors["conv_in.weight"].shape[:2]
    levels = _count(tensors, r"down\.(\d+)\.")
    blocks = _count(tensors, r"down\.0\.block\.(\d+)\.")
    widths = [tensors.get(f"down.{i}.block.0.conv1.weight") for i in range(levels)]
    if not levels or not blocks or any(w is None or w.ndim != 4 or w.shape[0] % width for w in widths) or width % 32:
        raise CheckpointError(f"{path}: damaged: its down.* blocks do not form a U-Net of width {width}")
    if patch < 1 or channels % patch**2:
        raise CheckpointError(f"{path}: conv_in takes {channels} channels, which patch {patch} does not divide")
    config = DDPMConfig(
        channels=channels // patch**2,
        size=size,
        width=width,
        width_multiples=tuple(w.shape[0] // width for w in widths if w is not None),
        blocks=blocks,
        attention=tuple(i for i in range(levels) if f"down.{i}.attn.0.q.weight" in tensors),
        patch=patch,
    )
    if size < 1 or size % config.multiple_of:
        raise CheckpointError(f"{path}: size {size} is not a multiple of {config.multiple_of}, as this network needs")
    return config


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {error}") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for damaged files
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{path}: not a torch file of tensors alone, or damaged: {reason}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, accepted is a dict of tensors by name")
    return {str(key): value.float() for key, value in content.items()}


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = {int(match.group(1)) for match in (re.match(pattern, key) for key in tensors) if match}
    return max(found) + 1 if found else 0


def _check_choice(path: Path, name: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise CheckpointError(f"{path}: {name} {value!r} is not one of {', '.join(accepted)}")


def _accepted(name: str) -> str:
    choices = {"prediction": "|".join(PREDICTIONS), "schedule": "|".join(SCHEDULES), "size": "PIXELS"}
    return choices[name]
