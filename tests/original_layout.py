"""Stable Diffusion in one file by the names of its original code, from diffusers' networks."""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

Tensors = dict[str, Any]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_name(name: str, layers: int, attends: set[int]) -> str:
    """layers: a block's. attends: the up blocks with attention, which come before the upsampling."""
    for new, old in ENDS.items():
        if name.startswith(f"{new}."):
            return old + name.removeprefix(new)
    place, rest = re.match(r"((?:down|up)_blocks\.\d+|mid_block)\.(.*)", name).groups()  # type: ignore[union-attr]
    kind, at, tail = re.match(r"(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", rest).groups()  # type: ignore[union-attr]
    if kind == "resnets":
        part, _, end = tail.rpartition(".")
        tail = f"{RESNET[part]}.{end}"
    block, number = int((place.rpartition(".")[2]) if "." in place else 0), int(at)
    if place == "mid_block":
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{tail}"
    if place.startswith("down"):
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{tail.removeprefix('conv.')}"
        return f"input_blocks.{1 + block * (layers + 1) + number}.{int(kind == 'attentions')}.{tail}"
    if kind == "upsamplers":
        return f"output_blocks.{block * (layers + 1) + layers}.{2 if block in attends else 1}.{tail}"
    return f"output_blocks.{block * (layers + 1) + number}.{int(kind == 'attentions')}.{tail}"


def vae_name(name: str, blocks: int) -> str:
    """blocks: number of levels, which the decoder counts from its end."""

    def block(found: re.Match[str]) -> str:
        number = int(found[2]) if found[1] == "down" else blocks - 1 - int(found[2])
        return f"{found[1]}.{number}."

    name = re.sub(r"(down|up)_blocks\.(\d+)\.", block, name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    name = re.sub(r"(down|up)samplers\.0", r"\1sample", name).replace("resnets.", "block.")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    for new, old in ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"mid.attn_1.{old}.")
    return name


def vae_tensor(name: str, tensor: Any) -> Any:
    """Attention is a convolution there."""
    return tensor[:, :, None, None] if "attn_1" in name and tensor.ndim == 2 else tensor


def original_tensors(pipeline: Any) -> Tensors:
    """The networks of a pipeline with one text encoder."""
    unet, vae = pipeline.unet, pipeline.vae
    attends = {number for number, kind in enumerate(unet.config.up_block_types) if "CrossAttn" in kind}
    layers, blocks = unet.config.layers_per_block, len(vae.config.block_out_channels)
    found = {
        f"model.diffusion_model.{unet_name(name, layers, attends)}": tensor
        for name, tensor in unet.state_dict().items()
    }
    for name, tensor in vae.state_dict().items():
        old = vae_name(name, blocks)
        found[f"first_stage_model.{old}"] = vae_tensor(old, tensor)
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inside = name.removeprefix("text_model.")
        if not inside.endswith("position_ids"):
            found[f"cond_stage_model.transformer.text_model.{inside}"] = tensor
    return found


def save_original(tensors: Tensors, path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path
