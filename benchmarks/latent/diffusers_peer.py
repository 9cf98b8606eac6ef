"""diffusers' image-to-image pipeline as a contender, with noise that other contenders can make too."""

from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from PIL import Image

from .scenarios import PROMPT, T0, Request


class SameNoise(diffusers.StableDiffusionImg2ImgPipeline):
    """The pipeline, but it begins from the mean of the autoencoder's distribution and with the request's noise."""

    request: Request
    scheduler: Any
    vae: Any

    def prepare_latents(self, image: Any, timestep: Any, *_: Any, **__: Any) -> Any:
        latents = self.vae.config.scaling_factor * retrieve_latents(self.vae.encode(image), sample_mode="argmax")
        noise = torch.from_numpy(self.request.noise(tuple(latents.shape)))
        return self.scheduler.add_noise(latents, noise, timestep)


class Diffusers:
    """Implements contenders.Contender. compiled: its U-Net is compiled at the first edit."""

    def __init__(self, request: Request, compiled: bool) -> None:
        self._request = request
        torch.set_num_threads(request.threads)
        options: dict[str, Any] = {"local_files_only": True, "torch_dtype": torch.float32}
        if request.vae:
            options["vae"] = diffusers.AutoencoderTiny.from_pretrained(request.vae)
        self._pipeline: Any = SameNoise.from_pretrained(request.pipeline, **options)
        self._pipeline.request = request
        self._pipeline.set_progress_bar_config(disable=True)
        if compiled:
            self._pipeline.unet = torch.compile(self._pipeline.unet)
        self.version = f"diffusers {diffusers.__version__}, torch {torch.__version__}"

    def edit(self, on_step: Callable[[], None]) -> np.ndarray:
        def step_ended(pipeline: Any, index: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            on_step()
            return values

        found = self._pipeline(
            prompt=PROMPT,
            image=Image.fromarray(self._request.guide()),
            strength=T0,
            num_inference_steps=round(self._request.steps / T0),  # it evaluates those below the strength
            guidance_scale=self._request.guidance,
            callback_on_step_end=step_ended,
        )
        return np.asarray(found.images[0])
