"""Schedulers of diffusers in our terms: the table of the training, and the sampler that does the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import CheckpointError

from .diffusers import betas_of, prediction_of, schedule_name, shown

SAMPLERS = {
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ancestral",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "EulerAncestralDiscreteScheduler": "ancestral",
    "EulerDiscreteScheduler": "euler",
    "LCMScheduler": "lcm",
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

SIGMA_DATA = 0.5
"""diffusers' constant of c_skip and c_out."""

NEGLIGIBLE = 1e-4
"""Largest share of the state in a consistency model's prediction that is left out."""


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
    if sampler == "lcm":
        table = distilled_levels(path, config, table)
        return Mapped(table, schedule_name(config), prediction_of(path, config), sampler, tuple(notes))
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


def distilled_levels(path: Path, config: Mapping[str, Any], table: np.ndarray) -> np.ndarray:
    """The levels that a latent consistency model was distilled at (Luo et al. 2023): every 20th of 1000, as a rule.

    Its prediction is c_out x0 + c_skip x (eq. 9). At these levels c_skip is so small that x0 stands for it.
    Raises CheckpointError where that is not so.
    """
    count = config["original_inference_steps"]
    if type(count) is not int or not 1 <= count <= len(table):
        raise CheckpointError(f"{path}: original_inference_steps {shown(count)} is not a number in 1..{len(table)}")
    each = len(table) // count
    levels = table[each - 1 :: each][:count]
    scaling = config["timestep_scaling"]
    time = float(levels[0, 2]) * float(scaling) if isinstance(scaling, int | float) else 0.0
    if not NEGLIGIBLE * time**2 >= SIGMA_DATA**2:
        raise CheckpointError(
            f"{path}: timestep_scaling {shown(scaling)} with {count} levels: predictions are no predictions of x0"
        )
    return levels


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
