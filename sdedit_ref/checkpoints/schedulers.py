"""Schedulers of diffusers in our terms: the table of the training, and the sampler that does the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .diffusers import betas_of, prediction_of, schedule_name

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "ancestral",
    "EulerDiscreteScheduler": "euler",
}
"""Schedulers whose steps are rows of a plan, and the preset."""

OTHERS = (
    "PNDMScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
)
"""Schedulers of the same training process whose steps are no rows."""

INSTEAD = "dpmpp_2m"


@dataclass(frozen=True)
class Mapped:
    """schedule: float64 [T, 3]. sampler: the preset that edits should take. notes: what differs, for people."""

    schedule: np.ndarray
    schedule_name: str
    prediction: str
    sampler: str
    notes: tuple[str, ...]


def map_scheduler(path: Path, config: Mapping[str, Any]) -> Mapped:
    """Read a scheduler's config, completed by its defaults. Raises CheckpointError for another training process."""
    sampler, notes = sampler_of(config)
    table = variance_preserving_with_last(betas_of(path, config))
    if config.get("timestep_spacing", "leading") == "leading":
        notes.append("its levels are spaced from the cleanest (leading); ours from the noisiest, as trailing")
    if config.get("set_alpha_to_one") is False:
        notes.append("it ends at the first level (set_alpha_to_one false); we end clean")
    return Mapped(table, schedule_name(config), prediction_of(path, config), sampler, tuple(notes))


def variance_preserving_with_last(betas: np.ndarray) -> np.ndarray:
    """sde.variance_preserving, for betas whose last may be 1: a level of noise alone (Lin et al. 2024)."""
    from ..sde import variance_preserving

    with np.errstate(divide="ignore"):
        return variance_preserving(betas)


def sampler_of(config: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The preset, and notes on what it does otherwise than the scheduler."""
    name = config["_class_name"]
    if name not in SAMPLERS:
        return INSTEAD, [f"{name} is not one of our samplers: {INSTEAD} is suggested"]
    sampler, notes = SAMPLERS[name], []
    if name == "DPMSolverMultistepScheduler":
        algorithm = config.get("algorithm_type")
        if algorithm == "sde-dpmsolver++":
            sampler = "dpmpp_2m_sde"
        if algorithm not in ("dpmsolver++", "sde-dpmsolver++") or config.get("solver_order") != 2:
            notes.append(
                f"{algorithm} of order {config.get('solver_order')} is not one of ours: {sampler} is suggested"
            )
        elif config.get("solver_type") != "midpoint":
            notes.append(f"solver_type {config.get('solver_type')} is not midpoint, which {sampler} is")
    if name == "DDPMScheduler" and config.get("variance_type") != "fixed_small":
        notes.append(f"variance_type {config.get('variance_type')} is not fixed_small, which {sampler} has")
    for option in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "thresholding"):
        if config.get(option):
            notes.append(f"{option} is left out")
    return sampler, notes
