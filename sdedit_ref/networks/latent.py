"""The networks of latent diffusion (Rombach et al. 2022) in canonical form; the modules inside are diffusers' own."""

from typing import Any

import torch
from torch import Tensor, nn


class ConditionedUNet(nn.Module):
    """x [B, C, h, w], time [B], context [B, L, D] -> out [B, C, h, w]; further inputs where the network has them.

    pooled [B, P] and size [B, 6]: SDXL's (Podell et al. 2023). known [B, 1 + C, h, w]: of inpainting networks, the mask
    (1: edited) and the latent of the masked picture. guidance [B]: of networks distilled with it (Luo et al. 2023),
    which embed guidance - 1.
    """

    frequencies: Tensor

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        config: Any = unet.config
        width = config.time_cond_proj_dim or 0
        exponents = torch.arange(width // 2, dtype=torch.float32) / max(width // 2 - 1, 1)
        self.register_buffer("frequencies", 1000 * 10000.0**-exponents, persistent=False)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        context: Tensor,
        pooled: Tensor | None = None,
        size: Tensor | None = None,
        known: Tensor | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:
        embedded = None
        if guidance is not None:
            angles = (guidance - 1)[:, None] * self.frequencies
            embedded = torch.cat([angles.sin(), angles.cos()], dim=1)
        out: Tensor = self.unet(
            x if known is None else torch.cat([x, known], dim=1),
            time,
            context,
            timestep_cond=embedded,
            added_cond_kwargs=None if pooled is None else {"text_embeds": pooled, "time_ids": size},
            return_dict=False,
        )[0]
        return out


class Half(nn.Module):
    """Half of an autoencoder. shift, scale [1, C, 1, 1]: see normalisation."""

    vae: Any
    shift: Tensor
    scale: Tensor

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        shift, scale = normalisation(vae)
        self.register_buffer("shift", shift, persistent=False)
        self.register_buffer("scale", scale, persistent=False)


class LatentEncoder(Half):
    """image [B, 3, H, W] in [-1, 1] -> latent [B, C, h, w]: the distribution's mean, shifted and scaled."""

    def forward(self, image: Tensor) -> Tensor:
        found = self.vae.encoder(image)
        if hasattr(self.vae, "quant_conv"):  # AutoencoderTiny has none, and no distribution
            found = found if self.vae.quant_conv is None else self.vae.quant_conv(found)
            found = found.chunk(2, dim=1)[0]
        latent: Tensor = (found - self.shift) * self.scale
        return latent


class LatentDecoder(Half):
    """latent [B, C, h, w] -> image [B, 3, H, W]: the inverse, nearly."""

    def forward(self, latent: Tensor) -> Tensor:
        found = latent / self.scale + self.shift
        if getattr(self.vae, "post_quant_conv", None) is not None:
            found = self.vae.post_quant_conv(found)
        image: Tensor = self.vae.decoder(found)
        return image


def normalisation(vae: nn.Module) -> tuple[Tensor, Tensor]:
    """shift and scale [1, C, 1, 1]: the canonical latent is (latent - shift) scale."""
    config: Any = vae.config
    channels = config.latent_channels
    mean, deviation = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    shift = torch.tensor(mean if mean and deviation else [config.shift_factor or 0.0] * channels)
    scale = torch.full((channels,), float(config.scaling_factor))
    if mean and deviation:
        scale = scale / torch.tensor(deviation)
    return shift.reshape(1, -1, 1, 1), scale.reshape(1, -1, 1, 1)


class TextEncoders(nn.Module):
    """tokens [B, L] int64 for each of one or two encoders -> context [B, L, D], and pooled [B, P].

    pooled: where the last encoder has a projection. skip: how many of the last layers are left out. normed: whether the
    last norm follows, as in SD 1 and 2; SDXL takes the layer before the last without it.
    """

    before: Tensor

    def __init__(self, encoders: list[nn.Module], skip: int, normed: bool, eos: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.skip, self.normed, self.eos = skip, normed, eos
        length = int(encoders[0].config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
        before = torch.triu(torch.ones(length, length), diagonal=1)
        self.register_buffer("before", before, persistent=False)

    def forward(self, tokens_0: Tensor, tokens_1: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        tokens = [tokens_0] if tokens_1 is None else [tokens_0, tokens_1]
        contexts, pooled = [], None
        modules: Any = self.encoders
        for encoder, ids in zip(modules, tokens, strict=True):
            body = getattr(encoder, "text_model", encoder)
            found = encoder(ids, output_hidden_states=True)
            hidden = found.hidden_states[-1 - self.skip]
            contexts.append(body.final_layer_norm(hidden) if self.normed else hidden)
            if hasattr(encoder, "text_projection"):
                pooled = encoder.text_projection(self.at_end(body.final_layer_norm(found.hidden_states[-1]), ids))
        context = torch.cat(contexts, dim=-1)
        return context if pooled is None else (context, pooled)

    def at_end(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """The hidden state [B, D] at the first mark of the end, as a sum: engines need no index from outside."""
        ends = (ids == self.eos).to(hidden.dtype)
        first = ends * (ends @ self.before == 0).to(hidden.dtype)
        return (first[:, :, None] * hidden).sum(dim=1)
