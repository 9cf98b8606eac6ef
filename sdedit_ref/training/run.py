"""A training run: its networks and optimizer, and saves that survive kills and full disks."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdedit.console import to_json
from sdedit.errors import CheckpointError, reason

from ..networks.ddpm import DDPM, DDPMConfig
from ..sde import SCHEDULES
from ..storage import why_unreadable
from .pattern import fit_pattern

STATE = "state.pt"
WEIGHTS = "ema.safetensors"
LOG = "log.jsonl"
SAMPLES = "samples.png"
PART = "saving.part"
"""Name of a file until it is complete."""

MEANING = ("prediction", "betas")
"""Metadata that change the meaning of weights."""


@dataclass
class Run:
    """State of a run. seen: number of images so far; a step is one batch.

    trained: the network as it is trained, which torch.compile may have compiled. small: saves hold weights in half
    precision and no state of the optimizer, so that they are a quarter as large; going on from them is not exact.
    """

    network: DDPM
    ema: DDPM
    optimizer: torch.optim.Optimizer
    schedule: Tensor
    prediction: str
    precision: torch.dtype
    seen: int = 0
    trained: nn.Module | None = None
    small: bool = False


def new_run(config: DDPMConfig, prediction: str, schedule: str, precision: torch.dtype, device: str, seed: int) -> Run:
    """Untrained weights, with a Pattern that fits them; the schedule as float32 [T, 3]."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda: torch finds no GPU; cpu is accepted")
    torch.manual_seed(seed)
    layout = torch.channels_last if device == "cuda" else torch.contiguous_format  # that of its convolutions
    network: DDPM = DDPM(config).to(device, memory_format=layout)  # type: ignore[call-overload] # stubs lack it
    ema: DDPM = DDPM(config).to(device, memory_format=layout).requires_grad_(False)  # type: ignore[call-overload]
    table = torch.from_numpy(SCHEDULES[schedule](1000)).float().to(device)
    fit_pattern(network, table, prediction)  # nothing learns from it: it bears on the told losses alone
    ema.load_state_dict(network.state_dict())
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, fused=device == "cuda")
    return Run(network, ema, optimizer, table, prediction, precision)


def make_folder(folder: Path) -> None:
    """Make the folder; raises CheckpointError if that fails or it is not writable, before any training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PART).touch()
        (folder / PART).unlink()
    except OSError as error:
        raise CheckpointError(f"folder {folder} cannot be made or written to: {reason(error)}") from None


def save(run: Run, folder: Path, metadata: dict[str, str]) -> None:
    """Write STATE and WEIGHTS, each complete or not at all, with the gain of the weights' Pattern set to fit them.

    Raises CheckpointError; the save before stays.
    """
    fit_pattern(run.ema, run.schedule, run.prediction)
    state = {
        "network": stored(run, run.network),
        "ema": stored(run, run.ema),
        "seen": run.seen,
        "metadata": metadata,
    } | ({} if run.small else {"optimizer": run.optimizer.state_dict()})
    temporary = folder / PART
    try:
        torch.save(state, temporary)
        temporary.replace(folder / STATE)
        temporary.touch()
        mode = temporary.stat().st_mode  # as the user's umask has it; safetensors would let nobody else read
        weights = {name: value.contiguous() for name, value in run.ema.state_dict().items()}
        save_file(weights, temporary, metadata={**metadata, "images": str(run.seen)})
        temporary.chmod(mode)
        temporary.replace(folder / WEIGHTS)
    except Exception as error:  # torch and safetensors raise their own types for a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{folder} cannot be saved to: {reason(error)}; the save before stands") from None


def stored(run: Run, network: DDPM) -> dict[str, Tensor]:
    """The network's weights as a save holds them."""
    weights = network.state_dict()
    return {name: value.half() for name, value in weights.items()} if run.small else weights


def report(folder: Path, line: Mapping[str, Any], samples: Image.Image) -> None:
    """Append a line to LOG and replace SAMPLES, complete or not at all. Raises CheckpointError."""
    temporary = folder / PART
    try:
        with (folder / LOG).open("a", encoding="utf-8") as log:
            log.write(to_json(line, indent=None) + "\n")
        samples.save(temporary, "PNG")
        temporary.replace(folder / SAMPLES)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{folder} cannot be written to: {reason(error)}; the last save stands") from None


def resume(run: Run, folder: Path, metadata: Mapping[str, str]) -> None:
    """Go on from the folder's last save, if it has one.

    Raises CheckpointError if that is another network, or was trained with other `metadata`.
    """
    path = folder / STATE
    if not path.exists():
        return
    if problem := why_unreadable(path):
        raise CheckpointError(f"{path} {problem}")
    try:
        state = torch.load(path, map_location=run.schedule.device, weights_only=True)
        run.network.load_state_dict(with_pattern(state["network"], run.network))
        run.ema.load_state_dict(with_pattern(state["ema"], run.ema))
        if "optimizer" in state:  # a small save has none: the moments begin at zero
            run.optimizer.load_state_dict(state["optimizer"])
        run.seen = int(state["seen"])
        before = dict(state.get("metadata", {}))
    except Exception as error:  # damaged files raise a dozen types
        raise CheckpointError(f"{path} is of another network, or damaged: {reason(error)}") from None
    check_same(path, before, metadata, metadata)


def start_from(run: Run, path: Path, metadata: Mapping[str, str]) -> None:
    """Load the weights of a safetensors file, such as another run's; raises CheckpointError as `resume` does."""
    if problem := why_unreadable(path):
        raise CheckpointError(f"{path} {problem}")
    try:
        with safe_open(path, "pt") as file:
            before = file.metadata() or {}
        tensors = with_pattern(load_file(path), run.network)
        run.network.load_state_dict(tensors)
        fit_pattern(run.network, run.schedule, run.prediction)
        run.ema.load_state_dict(run.network.state_dict())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from None
    except Exception as error:  # safetensors and torch raise their own types
        raise CheckpointError(f"{path} is of another network, or damaged: {reason(error)}") from None
    check_same(path, before, metadata, MEANING)


def with_pattern(weights: Mapping[str, Tensor], network: DDPM) -> dict[str, Tensor]:
    """The weights, with the network's own Pattern if they are from before there were any."""
    own = {} if network.pattern is None else network.pattern.state_dict(prefix="pattern.")
    return own | dict(weights)


def train_only(network: DDPM, parts: Collection[str]) -> None:
    """Hold all parameters still but those in these modules, such as conv_out or up.0. Raises CheckpointError."""
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    for part in parts:
        if not any(name.startswith(f"{part}.") for name in parameters):
            known = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameters))
            raise CheckpointError(
                f"only {part!r} is no part of the network; it has {known}, and parts of them like up.0"
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(any(name.startswith(f"{part}.") for part in parts))


def check_same(path: Path, before: Mapping[str, str], now: Mapping[str, str], names: Collection[str]) -> None:
    """Raise CheckpointError if the file's metadata differ in one of these names; a missing name is accepted."""
    for name in names:
        if name in before and before[name] != now.get(name):
            raise CheckpointError(f"{path} was trained with {name} {before[name]}, not {now.get(name)}")
