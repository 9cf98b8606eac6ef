"""Edits by the package diffusers, as baselines: its pipelines of latent models, and its loop for pixels.

Both spend `steps` evaluations below t0 as diffusers does: the scheduler makes round(steps / t0) levels, in its own
spacing, and the last `steps` of them are visited.
"""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from sdedit.errors import CheckpointError, ImageError, PlanError, SdeditError, install_hint, raise_interrupt, reason
from sdedit.runtime.codec import to_image, to_state
from sdedit.runtime.images import whole_canvas

NOTHING = "nothing is downloaded: accepted is a folder that a pipeline of diffusers was saved in"


@dataclass(frozen=True)
class Request:
    """The options of the edits. t0: in (0, 1], diffusers' strength. steps: evaluations of the network."""

    t0: float
    steps: int
    prompt: str
    seed: int

    @property
    def levels(self) -> int:
        """diffusers' num_inference_steps."""
        return max(self.steps, round(self.steps / self.t0))


class Painter(Protocol):
    """A model of diffusers. native: the side of its pictures in pixels. multiple_of: of the sides that it takes."""

    native: int
    multiple_of: int

    def paint(self, picture: Image.Image, mask: np.ndarray | None, request: Request) -> Image.Image:
        """Edit an RGB picture, where the mask [H, W] is true. Raises PlanError for levels that it has not."""


def open_painter(folder: Path, masked: bool) -> Painter:
    """Load the model of a folder, from its files alone. masked: for edits with masks.

    Raises SdeditError without torch or diffusers, and CheckpointError for a folder that is not accepted.
    """
    try:
        import diffusers
        import torch  # noqa: F401 # diffusers imports without it, but then has no models
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"edits by diffusers need the package {error.name}: {install_hint('bench')}") from None
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(f"{folder} has no model_index.json; {NOTHING}")
    automatic = diffusers.AutoPipelineForInpainting if masked else diffusers.AutoPipelineForImage2Image
    try:
        pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
        if pipeline.components.keys() == {"unet", "scheduler"}:
            return Pixels(folder, pipeline.unet, pipeline.scheduler)
        pipeline = automatic.from_pipe(pipeline)
    except (OSError, ValueError, TypeError, AttributeError, ImportError, RuntimeError, json.JSONDecodeError) as error:
        raise_interrupt(error)
        raise CheckpointError(f"{folder}: diffusers does not take it: {reason(error)}") from None
    return Latents(folder, pipeline, masked)


def fit(painter: Painter, picture: Image.Image, masked: bool, what: str) -> Image.Image:
    """The picture at the size that it is edited at: the model's, by a centred crop, or its own if there are masks.

    That is how sdedit evaluate edits, too. Raises ImageError for sides that the model does not take.
    """
    if not masked:
        return whole_canvas(picture, (painter.native, painter.native), "crop").photo
    if any(side % painter.multiple_of for side in picture.size):
        raise ImageError(
            f"{what} is {picture.width}x{picture.height} pixels; the model takes multiples of {painter.multiple_of}"
        )
    return picture


class Latents:
    """diffusers' image-to-image or inpainting pipeline of the model, with the pipeline's own defaults.

    The inpainting pipeline's result goes through the autoencoder as a whole: kept pixels change, too.
    """

    def __init__(self, folder: Path, pipeline: Any, masked: bool) -> None:
        if not {"unet", "vae"} <= pipeline.components.keys():
            raise CheckpointError(
                f"{folder}: {type(pipeline).__name__} is not accepted: its model has no U-Net on latents"
            )
        side = pipeline.unet.config.sample_size
        if not isinstance(side, int):
            raise CheckpointError(f"{folder}: its U-Net has the size {side}; one number is accepted")
        channels, latent = pipeline.unet.config.in_channels, pipeline.vae.config.latent_channels
        accepted = (latent, 2 * latent + 1) if masked else (latent,)
        if channels not in accepted:
            raise CheckpointError(
                f"{folder}: its U-Net has {channels} input channels; {' or '.join(map(str, accepted))} are accepted"
                f"{'' if masked else ' without a mask'}"
            )
        self.native = side * pipeline.vae_scale_factor
        self.multiple_of = pipeline.image_processor.config.vae_scale_factor
        self._folder, self._pipeline = folder, pipeline
        pipeline.set_progress_bar_config(disable=True)

    def paint(self, picture: Image.Image, mask: np.ndarray | None, request: Request) -> Image.Image:
        import torch

        more: dict[str, Any] = {}
        if mask is not None:
            more = {"mask_image": Image.fromarray(mask.astype(np.uint8) * 255)}
            more |= {"width": picture.width, "height": picture.height}
        # the pipelines visit int(levels * strength) levels: half a level more is safe from rounding
        strength = 1.0 if request.steps == request.levels else (request.steps + 0.5) / request.levels
        try:
            found = self._pipeline(
                prompt=request.prompt,
                image=picture,
                strength=strength,
                num_inference_steps=request.levels,
                generator=torch.Generator().manual_seed(request.seed),
                **more,
            )
        except ValueError as error:
            raise PlanError(f"{self._folder}: diffusers refuses {request.levels} levels: {reason(error)}") from None
        image: Image.Image = found.images[0]
        return image


class Pixels:
    """SDEdit with a UNet2DModel: the loop of diffusers' image-to-image pipeline, and its way to keep pixels.

    The scheduler is the folder's, with its own defaults; kept pixels are the guide at each level, with one noise.
    """

    def __init__(self, folder: Path, network: Any, scheduler: Any) -> None:
        config = network.config
        if config.in_channels != 3 or not isinstance(config.sample_size, int):
            raise CheckpointError(
                f"{folder}: its network has {config.in_channels} channels and the size {config.sample_size}; "
                "square RGB pictures are accepted"
            )
        if network.class_embedding is not None:
            raise CheckpointError(f"{folder}: its network has classes; networks without are accepted")
        if not hasattr(scheduler, "step") or not hasattr(scheduler, "add_noise"):
            raise CheckpointError(f"{folder}: {type(scheduler).__name__} has no step of its own; others are accepted")
        self.native = config.sample_size
        self.multiple_of = 2 ** (len(config.block_out_channels) - 1)
        self._folder, self._network, self._scheduler = folder, network.eval(), scheduler

    def paint(self, picture: Image.Image, mask: np.ndarray | None, request: Request) -> Image.Image:
        import torch

        if request.prompt:
            raise PlanError(f"{self._folder}: a prompt is for models with a text encoder; this one has none")
        generator = torch.Generator().manual_seed(request.seed)
        guide = torch.from_numpy(to_state(picture))[None]
        edited = None if mask is None else torch.from_numpy(mask)
        noise = torch.randn(guide.shape, generator=generator)
        scheduler, times = self._scheduler, self._times(request)
        known = set(inspect.signature(scheduler.step).parameters)
        more = {"generator": generator} if "generator" in known else {}
        with torch.inference_mode():
            x = scheduler.add_noise(guide, noise, times[:1])
            for number, time in enumerate(times):
                out = self._network(scheduler.scale_model_input(x, time), time).sample
                x = scheduler.step(out, time, x, **more).prev_sample
                if edited is not None:
                    then = times[number + 1 : number + 2]
                    x = torch.where(edited, x, scheduler.add_noise(guide, noise, then) if len(then) else guide)
        return to_image(x[0].numpy())

    def _times(self, request: Request) -> Any:
        """The times of the levels that are visited, as diffusers' pipelines choose them."""
        scheduler = self._scheduler
        try:
            scheduler.set_timesteps(request.levels)
        except ValueError as error:
            raise PlanError(f"{self._folder}: diffusers refuses {request.levels} levels: {reason(error)}") from None
        begin = (request.levels - request.steps) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        return scheduler.timesteps[begin:]
