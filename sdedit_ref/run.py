"""A training run: its networks and optimizer, and how they are kept on disk through kills and full disks."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdedit.errors import CheckpointError, reason

from .networks.ddpm import DDPM, DDPMConfig
from .sde import SCHEDULES

STATE = "state.pt"
WEIGHTS = "ema.safetensors"


@dataclass
class Run:
    """All that a step needs and changes. seen: images so far; a step is one batch."""

    network: DDPM
    ema: DDPM
    optimizer: torch.optim.Optimizer
    schedule: Tensor
    prediction: str
    precision: torch.dtype
    seen: int = 0


def new_run(config: DDPMConfig, prediction: str, schedule: str, precision: torch.dtype, device: str, seed: int) -> Run:
    """Untrained weights; the schedule as float32 [T, 3]."""
    if device == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("device cuda: torch finds no GPU; cpu is accepted")
    torch.manual_seed(seed)
    network = DDPM(config).to(device)
    ema = DDPM(config).to(device).requires_grad_(False)
    ema.load_state_dict(network.state_dict())
    table = torch.from_numpy(SCHEDULES[schedule](1000)).float().to(device)
    return Run(network, ema, torch.optim.AdamW(network.parameters()), table, prediction, precision)


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"folder {folder} cannot be made: {reason(error)}") from None


def save(run: Run, folder: Path, metadata: dict[str, str]) -> None:
    """Write STATE and WEIGHTS, each complete or not at all; raises CheckpointError, and what was there stays."""
    state = {
        "network": run.network.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "seen": run.seen,
    }
    temporary = folder / "saving.part"
    try:
        torch.save(state, temporary)
        temporary.replace(folder / STATE)
        save_file(run.ema.state_dict(), temporary, metadata={**metadata, "images": str(run.seen)})
        temporary.replace(folder / WEIGHTS)
    except Exception as error:  # torch and safetensors have types of their own for a full disk
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{folder} cannot be saved to: {reason(error)}; the save before stands") from None


def resume(run: Run, folder: Path) -> None:
    """Go on from the folder's last save, if it has one; raises CheckpointError for one of another network."""
    path = folder / STATE
    if not path.exists():
        return
    try:
        state = torch.load(path, map_location=run.schedule.device, weights_only=True)
        run.network.load_state_dict(state["network"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.seen = int(state["seen"])
    except Exception as error:  # damaged files raise a dozen types
        raise CheckpointError(f"{path} is of another network, or damaged: {reason(error)}") from None


def start_from(run: Run, path: Path) -> None:
    """Take over the weights of a safetensors file, such as another run's; raises CheckpointError."""
    try:
        tensors = load_file(path)
        run.network.load_state_dict(tensors)
        run.ema.load_state_dict(tensors)
    except Exception as error:  # safetensors and torch have types of their own
        raise CheckpointError(f"{path} is of another network, or damaged: {reason(error)}") from None
