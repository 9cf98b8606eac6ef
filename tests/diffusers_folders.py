"""Folders of diffusers as its pipelines save them, of small random networks."""

import json
import math
from pathlib import Path
from typing import Any

import torch

SHAPE = (3, 16, 16)
LEVELS = 100
COMMON: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
DDPM = {
    **COMMON,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
"""Configuration like that of google/ddpm-ema-*."""
VE = {
    **COMMON,
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "block_out_channels": (32, 64),
    "time_embedding_type": "fourier",
    "center_input_sample": True,
    "mid_block_scale_factor": math.sqrt(2),
}
"""Configuration like that of google/ncsnpp-*."""
VE_SCHEDULE = {"num_train_timesteps": 50, "sigma_min": 0.01, "sigma_max": 348.0}


def save(folder: Path, options: dict[str, Any], scheduler: Any) -> Any:
    """Save a network with random weights in a folder, as pipelines do; returns the network."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(**options).eval()
    pipeline = diffusers.ScoreSdeVePipeline if options is VE else diffusers.DDPMPipeline
    pipeline(unet=unet, scheduler=scheduler).save_pretrained(folder)
    return unet


def save_ddpm(folder: Path) -> tuple[Path, Any]:
    """The folder, and the network in it."""
    import diffusers

    scheduler = diffusers.DDPMScheduler(LEVELS, beta_end=0.1, prediction_type="v_prediction")
    return folder, save(folder, DDPM, scheduler)


def save_ve(folder: Path) -> tuple[Path, Any]:
    import diffusers

    return folder, save(folder, VE, diffusers.ScoreSdeVeScheduler(**VE_SCHEDULE))


def rewrite(path: Path, **changes: Any) -> None:
    """None: taken out."""
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
