"""Tiny models: a bundle of a few kilobytes, and a DDPM that exports in seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime.bundle import (
    MANIFEST,
    NETWORK,
    PIXELS,
    PIXELS_PARITY,
    REFERENCE,
    SCHEDULE,
    write_manifest,
)
from sdedit_ref.checkpoints import Checkpoint
from sdedit_ref.networks.ddpm import DDPM, DDPMConfig
from sdedit_ref.sde import cosine

SHAPE = (3, 8, 8)
LEVELS = 20
PARITY_LEVELS = [1, 10, 20]
TINY = DDPMConfig(3, 8, 32, (1,), 1, (), 2)
"""A network that trains in seconds."""

FIELDS: dict[str, Any] = {
    **PIXELS,
    "name": "tiny",
    "licence": "CC0",
    "source": {"name": "tiny.safetensors", "sha256": "0" * 64},
    "image": {"channels": 3, "height": 8, "width": 8, "multiple_of": 8, "free": False, "max_pixels": 64},
    "prediction": "eps",
    "conditioning": "none",
    "classes": 0,
    "null_label": None,
    "schedule": {"name": "cosine", "levels": LEVELS},
    "exported_with": {"sdedit": "0"},
    "parity": {
        "levels": PARITY_LEVELS,
        "max_relative_error": 0.0,
        "engines": {"onnxruntime": [0.0, 0.0, 0.0]},
        "sizes": {},
        "weights": "float32",
        "weights_rounding": 0.0,
        **PIXELS_PARITY,
    },
}


def halving_network(free: bool = False) -> onnx.ModelProto:
    """out = x / 2"""
    half = numpy_helper.from_array(np.float32([0.5]), "half")
    return model([helper.make_node("Mul", ["x", "half"], ["out"])], [half], free=free)


def blurring_network() -> onnx.ModelProto:
    """out = the mean of x over 3 x 3 pixels, zeros outside, for images of any size."""
    weight = np.zeros((3, 3, 3, 3), np.float32)
    weight[range(3), range(3)] = 1 / 9
    node = helper.make_node("Conv", ["x", "weight"], ["out"], pads=[1, 1, 1, 1])
    return model([node], [numpy_helper.from_array(weight, "weight")], free=True)


def model(
    nodes: list[onnx.NodeProto],
    initializers: list[onnx.TensorProto],
    functions: list[onnx.FunctionProto] | None = None,
    free: bool = False,
) -> onnx.ModelProto:
    """x [B, 3, 8, 8], time [B] -> out [B, 3, 8, 8]. free: for any height and width."""
    image = ["batch", 3, "height", "width"] if free else ["batch", *SHAPE]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, image),
            helper.make_tensor_value_info("time", TensorProto.FLOAT, ["batch"]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, image)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, functions=functions)


def write_bundle(folder: Path, shape: tuple[int, int, int] = SHAPE) -> Path:
    """A bundle of the halving network. shape: of its reference."""
    folder.mkdir(parents=True)
    schedule = cosine(LEVELS)
    noise = [normal_numpy(0, image, 0, 0, KIND_BEGIN, int(np.prod(shape))) for image in range(len(PARITY_LEVELS))]
    sigmas = schedule[np.array(PARITY_LEVELS) - 1, 1].astype(np.float32)
    onnx.save(halving_network(), folder / NETWORK)
    np.save(folder / SCHEDULE, schedule)
    np.save(folder / REFERENCE, np.stack(noise).reshape(-1, *shape) * sigmas[:, None, None, None] / np.float32(2))
    write_manifest(folder, FIELDS)
    return folder


def write_free_bundle(folder: Path, multiple_of: int = 4, max_pixels: int = 1024, size: int = SHAPE[1]) -> Path:
    """The same bundle for images of any size. size: its native side."""
    write_bundle(folder, (3, size, size))
    onnx.save(halving_network(free=True), folder / NETWORK)
    free = {"multiple_of": multiple_of, "free": True, "max_pixels": max_pixels}
    image = {**FIELDS["image"], "height": size, "width": size, **free}
    write_manifest(folder, {**FIELDS, "image": image})
    return folder


def rewrite(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of a bundle, and its size and hash in the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    write_manifest(folder, manifest)


def tiny_ddpm(patch: int = 2, pattern: bool = False) -> DDPM:
    """Random weights; two levels of width 32, attention on the coarser one, 16 x 16 pixels."""
    config = DDPMConfig(
        size=16, width=32, width_multiples=(1, 2), blocks=1, attention=(1,), patch=patch, pattern=pattern
    )
    torch.manual_seed(0)
    network = DDPM(config).eval()
    if network.pattern is not None:
        for parameter in network.pattern.parameters():  # zero before training
            nn.init.normal_(parameter, std=0.1)
    return network


def pattern_of(images: torch.Tensor) -> torch.Tensor:
    """The mean of the 2x2 squares of images [B, C, H, W], less the mean of each colour, repeated over the images."""
    height, width = images.shape[2:]
    squares = torch.stack([images[:, :, y::2, x::2].mean((2, 3)) for y in (0, 1) for x in (0, 1)], dim=2)
    squares = (squares - squares.mean(2, keepdim=True)).unflatten(2, (2, 2))
    return squares.repeat(1, 1, height // 2, width // 2)


def tiny_checkpoint(network: DDPM, levels: int = LEVELS) -> Checkpoint:
    """A checkpoint as if loaded from a file: it predicts v on the cosine schedule."""
    config = network.config
    return Checkpoint(
        Path("tiny.safetensors"),
        sha256="0" * 64,
        family="DDPM network",
        network=network,
        prediction="v",
        schedule_name="cosine",
        schedule=cosine(levels),
        shape=(config.channels, config.size, config.size),
        multiple_of=config.multiple_of,
    )
