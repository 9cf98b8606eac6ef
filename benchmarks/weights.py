"""Read a bundle's network back into torch: the project's own module, and diffusers' UNet2DModel.

The graph keeps the names of all parameters except those of norms, which it splits into several nodes; these are found
by their order. Mistakes here would be noticed: a contender that differs from the bundle's reference outputs is not
timed.
"""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdedit.errors import raise_interrupt
from sdedit.export.onnx_nodes import read_model
from sdedit.runtime.bundle import Bundle
from sdedit_ref.checkpoints.contents import Contents
from sdedit_ref.checkpoints.ddpm import read_config
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig

NETWORK = "network.safetensors"
CONFIG = "config.json"
DIFFUSERS = "diffusers"


def save_network(network: DDPM, folder: Path) -> None:
    """Write the files that load_network and diffusers read."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}, folder / NETWORK)
    (folder / CONFIG).write_text(json.dumps(asdict(network.config), allow_nan=False), encoding="utf-8")
    save_diffusers(network, folder / DIFFUSERS)


def load_network(folder: Path) -> DDPM:
    """Read the network that save_network wrote."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tuples = {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
    return fill(DDPMConfig(**{**config, **tuples}), load_file(folder / NETWORK))


def network_of(bundle: Bundle) -> DDPM:
    """The network of a bundle that was exported from a DDPM checkpoint. Raises ValueError for any other bundle."""
    model = read_model(bundle.read_network())
    tensors = {}
    for initializer in model.graph.initializer:
        values = torch.from_numpy(numpy_helper.to_array(initializer).copy())
        tensors[initializer.name.removesuffix(".half")] = values.float() if values.is_floating_point() else values
    if "conv_in.weight" not in tensors:
        raise ValueError("its graph has no conv_in.weight")
    channels, height, _ = bundle.state_shape
    patch = math.isqrt(tensors["conv_in.weight"].shape[1] // channels)
    config, _ = read_config(Contents(bundle.path, tensors), str(height), patch)
    with torch.device("meta"):
        empty = DDPM(config)
    names = list(empty.state_dict())
    tensors.update(norms(model, tensors, norm_names(empty)))
    missing = [name for name in names if name not in tensors]
    if missing:
        raise ValueError(f"its graph has no {missing[0]}")
    return fill(config, {name: tensors[name] for name in names})


def fill(config: DDPMConfig, tensors: dict[str, Tensor]) -> DDPM:
    """A network with these parameters."""
    with torch.device("meta"):
        network = DDPM(config)
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def norm_names(network: DDPM) -> list[str]:
    """Names of the group norms in the order in which they run. network: on the meta device."""
    order: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda module, args, out, name=name: order.append(name))
    config = network.config
    network(torch.zeros(1, config.channels, config.size, config.size, device="meta"), torch.zeros(1, device="meta"))
    return order


def norms(model: onnx.ModelProto, tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Scale and bias of each norm: the constants of InstanceNormalization -> Reshape -> Mul -> Add.

    Raises ValueError if the graph has other nodes there.
    """
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    starts = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    found = {}
    for name, start in zip(names, starts, strict=True):
        (reshaped,) = users[start.output[0]]
        (scaled,) = users[reshaped.output[0]]
        (shifted,) = users[scaled.output[0]]
        for part, node in (("weight", scaled), ("bias", shifted)):
            (constant,) = [tensors[i] for i in node.input if i in tensors]
            found[f"{name}.{part}"] = constant.flatten()
    return found


def betas(table: np.ndarray) -> np.ndarray:
    """Betas [T] of a variance-preserving schedule [T, 3]."""
    alpha = np.concatenate([[1.0], table[:, 0]])
    return 1 - (alpha[1:] / alpha[:-1]) ** 2


def save_diffusers(network: DDPM, folder: Path) -> None:
    """Write the network without its pattern as a UNet2DModel.

    Writes nothing if diffusers is missing: its contender reports that.
    """
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise_interrupt(error)
        return
    config = network.config
    levels = range(len(config.width_multiples))
    down = ["AttnDownBlock2D" if level in config.attention else "DownBlock2D" for level in levels]
    up = ["AttnUpBlock2D" if level in config.attention else "UpBlock2D" for level in reversed(levels)]
    model: Any = UNet2DModel(
        sample_size=config.size // config.patch,
        in_channels=config.channels * config.patch**2,
        out_channels=config.channels * config.patch**2,
        layers_per_block=config.blocks,
        block_out_channels=tuple(config.width * multiple for multiple in config.width_multiples),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        attention_head_dim=None,
    )
    tensors = as_linear({name: t for name, t in network.state_dict().items() if not name.startswith("pattern.")})
    model.load_state_dict({diffusers_name(name, len(levels)): tensor for name, tensor in tensors.items()})
    model.save_pretrained(folder)


PATTERNS = (
    (r"^temb\.dense\.0", "time_embedding.linear_1"),
    (r"^temb\.dense\.1", "time_embedding.linear_2"),
    (r"^norm_out", "conv_norm_out"),
    (r"^down\.", "down_blocks."),
    (r"^mid\.block_1", "mid_block.resnets.0"),
    (r"^mid\.block_2", "mid_block.resnets.1"),
    (r"^mid\.attn_1", "mid_block.attentions.0"),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"downsample\.conv", "downsamplers.0.conv"),
    (r"upsample\.conv", "upsamplers.0.conv"),
    (r"temb_proj", "time_emb_proj"),
    (r"nin_shortcut", "conv_shortcut"),
    (r"(attentions\.\d+)\.norm", r"\1.group_norm"),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"proj_out", "to_out.0"),
)
"""Replacements that turn the official names into diffusers' names, applied in this order."""


def as_linear(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with attention's 1x1 convolutions as linear layers, which diffusers uses."""
    return {
        name: t.flatten(1) if re.search(r"attn.*\.(q|k|v|proj_out)\.weight", name) else t for name, t in tensors.items()
    }


def diffusers_name(name: str, levels: int) -> str:
    name = re.sub(r"^up\.(\d+)", lambda found: f"up_blocks.{levels - 1 - int(found[1])}", name)
    for pattern, replacement in PATTERNS:
        name = re.sub(pattern, replacement, name)
    return name
