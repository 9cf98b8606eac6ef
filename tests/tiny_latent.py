"""A latent bundle of a few kilobytes, with an autoencoder, a text encoder and a tokenizer that are simple functions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Build
from latent_pipelines import BOS, EOS, write_tokenizer
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tiny import FIELDS, LEVELS, PARITY_LEVELS

from sdedit.runtime.bundle import (
    DECODER,
    ENCODER,
    MANIFEST,
    NETWORK,
    PREVIEW,
    REFERENCE,
    SCHEDULE,
    TEXT,
    Bundle,
    TensorSpec,
    read_bundle,
    resized,
    write_manifest,
)
from sdedit.runtime.checks.parity import parity_conditions, parity_input
from sdedit.runtime.codec import LatentCodec
from sdedit.runtime.engines import load_component
from sdedit_ref.sde import cosine

FACTOR = 4
WIDTH = 3
LENGTH = 9
STATE = (4, 8, 8)
MIX = np.float32([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.25, 0.25, 0.25]])
"""Latent = MIX times the mean colour of a cell, which the decoder turns back exactly."""
BACK = np.linalg.pinv(MIX).astype(np.float32)

PROMPT = "a fantasy landscape"

Shape = list[Any]


def latent_bundle(build_once: Callable[[str, Build], Path]) -> Bundle:
    """The bundle, written once for all workers."""
    pytest.importorskip("tokenizers", reason="prompts need the package tokenizers: pip install '.[text]'")
    return read_bundle(build_once("tiny-latent", lambda folder: write_latent_bundle(folder / "bundle")) / "bundle")


def picture(height: int = 40, width: int = 56) -> Image.Image:
    """Noise, the same each time."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8))


def codec(bundle: Bundle, engine: str = "onnxruntime") -> LatentCodec:
    """The bundle's codec on one thread of that engine."""
    return LatentCodec(bundle, lambda name: load_component(bundle, name, engine, 1))


def save(
    path: Path, nodes: list[Any], weights: dict[str, np.ndarray], given: dict[str, Shape], made: dict[str, Shape]
) -> None:
    """Write a graph; names that begin with tokens are int64, all others float32."""

    def info(name: str, shape: Shape) -> Any:
        kind = TensorProto.INT64 if name.startswith("tokens") else TensorProto.FLOAT
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "tiny",
        [info(*item) for item in given.items()],
        [info(*item) for item in made.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def write_networks(folder: Path, tokens: int) -> None:
    """network: out = x / 2 + mean of context; encoder, decoder: colours of cells; text: a table of random rows."""
    picture, latent = ["batch", 3, "height", "width"], ["batch", 4, "height", "width"]
    save(
        folder / NETWORK,
        [
            helper.make_node("ReduceMean", ["context", "axes"], ["mean"], keepdims=1),
            helper.make_node("Unsqueeze", ["mean", "last"], ["told"]),
            helper.make_node("Mul", ["x", "half"], ["halved"]),
            helper.make_node("Add", ["halved", "told"], ["out"]),
        ],
        {"axes": np.array([1, 2]), "last": np.array([3]), "half": np.float32([0.5])},
        {"x": latent, "time": ["batch"], "context": ["batch", LENGTH, WIDTH]},
        {"out": latent},
    )
    save(
        folder / ENCODER,
        [
            helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[FACTOR] * 2, strides=[FACTOR] * 2),
            helper.make_node("Conv", ["cells", "mix"], ["latent"]),
        ],
        {"mix": MIX[:, :, None, None]},
        {"image": picture},
        {"latent": latent},
    )
    spread = np.repeat(np.repeat(BACK.T[:, :, None, None], FACTOR, 2), FACTOR, 3)
    save(
        folder / DECODER,
        [helper.make_node("ConvTranspose", ["latent", "spread"], ["image"], strides=[FACTOR] * 2)],
        {"spread": np.ascontiguousarray(spread)},
        {"latent": latent},
        {"image": picture},
    )
    table = np.random.default_rng(0).standard_normal((tokens, WIDTH)).astype(np.float32)
    save(
        folder / TEXT,
        [helper.make_node("Gather", ["table", "tokens_0"], ["context"])],
        {"table": table},
        {"tokens_0": ["batch", LENGTH]},
        {"context": ["batch", LENGTH, WIDTH]},
    )


def latent_fields(vocabulary: dict[str, int]) -> dict[str, Any]:
    """The manifest's fields."""
    marks = {"bos": vocabulary[BOS], "eos": vocabulary[EOS], "pad": vocabulary[EOS]}
    return {
        **FIELDS,
        "name": "tiny-latent",
        "image": {"channels": 3, "height": 32, "width": 32, "multiple_of": 8, "free": True, "max_pixels": 16384},
        "latent": {"channels": 4, "factor": FACTOR},
        "inputs": {"context": {"dtype": "float32", "shape": [LENGTH, WIDTH]}},
        "text": {
            "length": LENGTH,
            "encoders": [{"folder": "tokenizer/0", "tokens": len(vocabulary), **marks}],
            "guidance": "free",
            "zero_negative": False,
        },
        "clip": None,
        "suggested": {"t0": 0.6, "steps": 3, "sampler": "ddim", "guidance": 2.0},
    }


def write_latent_bundle(folder: Path) -> Path:
    """The bundle, in a folder that is not there yet."""
    write_tokenizer(folder / "tokenizer/0")
    (folder / "tokenizer/0/tokenizer_config.json").unlink()
    vocabulary = json.loads((folder / "tokenizer/0/vocab.json").read_text(encoding="utf-8"))
    write_networks(folder, len(vocabulary))
    schedule = cosine(LEVELS)
    np.save(folder / SCHEDULE, schedule)
    np.save(folder / PREVIEW, np.concatenate([BACK.T, np.zeros((1, 3), np.float32)]))
    specs = {"x": TensorSpec(np.dtype(np.float32), STATE), "context": TensorSpec(np.dtype(np.float32), (LENGTH, WIDTH))}
    outputs = [
        parity_input(schedule, k, index, STATE) / np.float32(2)
        + parity_conditions(resized(specs, STATE), index)["context"].mean()
        for index, k in enumerate(PARITY_LEVELS)
    ]
    np.save(folder / REFERENCE, np.concatenate(outputs).astype(np.float32))
    write_manifest(folder, latent_fields(vocabulary))
    return folder


def write_inpainting_bundle(folder: Path) -> Path:
    """The bundle with a network that is told the mask and the kept part: out = x / 2 + the kept part's latent."""
    write_latent_bundle(folder)
    latent = ["batch", 4, "height", "width"]
    save(
        folder / NETWORK,
        [
            helper.make_node("Slice", ["known", "one", "five", "one"], ["kept"]),
            helper.make_node("ReduceMean", ["context", "axes"], ["mean"], keepdims=1),
            helper.make_node("Mul", ["mean", "none"], ["nothing"]),
            helper.make_node("Unsqueeze", ["nothing", "last"], ["told"]),
            helper.make_node("Mul", ["x", "half"], ["halved"]),
            helper.make_node("Add", ["halved", "kept"], ["with_kept"]),
            helper.make_node("Add", ["with_kept", "told"], ["out"]),
        ],
        {
            "one": np.array([1]),
            "five": np.array([5]),
            "axes": np.array([1, 2]),
            "last": np.array([3]),
            "none": np.float32([0]),
            "half": np.float32([0.5]),
        },
        {"x": latent, "time": ["batch"], "context": ["batch", LENGTH, WIDTH], "known": ["batch", 5, "height", "width"]},
        {"out": latent},
    )
    fields = json.loads((folder / MANIFEST).read_text())
    fields["inputs"]["known"] = {"dtype": "float32", "shape": [5, *STATE[1:]]}
    specs = {name: TensorSpec(np.dtype(np.float32), tuple(it["shape"])) for name, it in fields["inputs"].items()}
    specs["x"] = TensorSpec(np.dtype(np.float32), STATE)
    table = np.load(folder / SCHEDULE)
    outputs = [
        parity_input(table, k, index, STATE) / np.float32(2) + parity_conditions(specs, index)["known"][:, 1:]
        for index, k in enumerate(PARITY_LEVELS)
    ]
    np.save(folder / REFERENCE, np.concatenate(outputs).astype(np.float32))
    write_manifest(folder, fields)
    return folder


def open_latent_bundle(folder: Path) -> Bundle:
    return read_bundle(write_latent_bundle(folder))
