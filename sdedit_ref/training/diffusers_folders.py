"""Writing folders of diffusers, complete or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

from sdedit.errors import CheckpointError, reason

PART = "model.part"
"""Name of a folder until it is complete."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}
"""How latents are noised in training."""


def write_model(model: Any, folder: Path) -> None:
    """Write a model's config.json and weights into the folder. Raises CheckpointError; the files before stay."""
    temporary = folder / PART
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        model.save_pretrained(temporary)
        for file in sorted(temporary.iterdir()):
            file.replace(folder / file.name)
    except Exception as error:  # safetensors raises its own types for a full disk
        raise CheckpointError(f"{folder} cannot be saved to: {reason(error)}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_scheduler(folder: Path) -> None:
    """Write scheduler_config.json of SCHEDULER into the folder. Raises CheckpointError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(SCHEDULER, indent=2, allow_nan=False)
        (folder / "scheduler_config.json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written to: {reason(error)}") from None
