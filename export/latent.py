"""The parts of a latent bundle besides its network: the autoencoder's halves, the text encoders and the previews."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdedit.errors import BundleError, EngineError
from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime.bundle import DECODER, ENCODER, PREVIEW, TEXT, Bundle, TextEncoder
from sdedit.runtime.engines import installed_engines, load_component
from sdedit.runtime.machine import available_processors
from sdedit.runtime.prompts import fill_up, make_tokenizer
from sdedit_ref.checkpoints import Checkpoint
from sdedit_ref.checkpoints.checkpoint import LatentParts, TextParts

from .onnx_graph import component_to_onnx, round_to_half, save_onnx

PROMPTS = ("", "a fantasy landscape, trending on artstation", "don't blur it: 2 façades & naïve 日本 café!")
"""Texts whose ids and embeddings are compared."""

FITTED, CELLS = 24, 8
"""Latents that the previews' map is fitted to, and their sides."""


def write_components(folder: Path, checkpoint: Checkpoint, half: bool) -> None:
    """Write the parts into the folder of a bundle. half: their weights are rounded, in place."""
    parts = checkpoint.latent
    assert parts is not None
    channels = checkpoint.shape[0]
    step = checkpoint.multiple_of * parts.factor
    if half:
        for module in (parts.encoder, parts.decoder, *([] if parts.text is None else [parts.text.encoders])):
            round_to_half(module)
    sizes = {"image": (3, step), "latent": (channels, 1)}
    for file, module, given, made in (
        (ENCODER, parts.encoder, "image", "latent"),
        (DECODER, parts.decoder, "latent", "image"),
    ):
        depth, multiple = sizes[given]
        example = torch.zeros(
            2, depth, 3 * multiple + (9 if multiple == 1 else 0), 5 * multiple + (6 if multiple == 1 else 0)
        )
        save_onnx(component_to_onnx(module, {given: example}, [made], multiple), folder / file, half)
    if parts.text is not None:
        write_text(folder, parts.text, half)
    np.save(folder / PREVIEW, fit_preview(parts, channels))


def write_text(folder: Path, text: TextParts, half: bool) -> None:
    """Write the text encoders, and their tokenizers as data."""
    names = {f"tokens_{n}": torch.zeros(2, text.length, dtype=torch.int64) for n in range(len(text.tokenizers))}
    with torch.inference_mode():
        outputs = text.encoders(*names.values())
    made = ["context", "pooled"] if isinstance(outputs, tuple) else ["context"]
    save_onnx(component_to_onnx(text.encoders, names, made), folder / TEXT, half)
    for number, tokenizer in enumerate(text.tokenizers):
        place = folder / f"tokenizer/{number}"
        place.mkdir(parents=True)
        vocabulary = json.dumps(dict(tokenizer.vocabulary), ensure_ascii=False, allow_nan=False)
        (place / "vocab.json").write_text(vocabulary, encoding="utf-8", newline="\n")
        lines = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in tokenizer.merges), ""])
        (place / "merges.txt").write_text(lines, encoding="utf-8", newline="\n")


def text_fields(text: TextParts) -> dict[str, Any]:
    """The manifest's `text`."""
    encoders = [vars(encoder) for encoder in text_encoders(text)]
    return {
        "length": text.length,
        "encoders": encoders,
        "guidance": text.guidance,
        "zero_negative": text.zero_negative,
    }


def text_encoders(text: TextParts) -> tuple[TextEncoder, ...]:
    """The encoders as the manifest describes them."""
    modules: Any = text.encoders.encoders
    return tuple(
        TextEncoder(f"tokenizer/{number}", int(module.config.vocab_size), it.bos, it.eos, it.pad)
        for number, (module, it) in enumerate(zip(modules, text.tokenizers, strict=True))
    )


def prompt_ids(text: TextParts) -> dict[str, list[list[int]]]:
    """The ids of PROMPTS, one list an encoder, with the marks. Raises BundleError if a tokenizer does not load."""
    found: dict[str, list[list[int]]] = {prompt: [] for prompt in PROMPTS}
    for encoder, it in zip(text_encoders(text), text.tokenizers, strict=True):
        try:
            tokenizer = make_tokenizer(dict(it.vocabulary), list(it.merges), encoder)
        except (EngineError, ValueError) as error:
            raise BundleError(f"the tokenizer does not load: {error}") from None
        for prompt in PROMPTS:
            ids = tokenizer.encode(prompt, add_special_tokens=False).ids[: text.length - 2]
            found[prompt].append([encoder.bos, *ids, encoder.eos])
    return found


def fit_preview(parts: LatentParts, channels: int) -> np.ndarray:
    """The map from a latent to RGB, float32 [C + 1, 3], by least squares over decoded latents.

    No photo is at hand where a model is exported. The latents are smooth noise with a deviation of 1, as a network's
    are, so their pictures have the decoder's usual colours; of what the encoder makes of random colours that is not so.
    """
    size = (CELLS, CELLS)
    coarse = [normal_numpy(0, number, 0, 0, KIND_BEGIN, 4 * channels) for number in range(FITTED)]
    corners = torch.from_numpy(np.stack(coarse).reshape(FITTED, channels, 2, 2))
    latents = nn.functional.interpolate(corners, size, mode="bilinear", align_corners=True)
    latents /= latents.std()
    with torch.inference_mode():
        decoded = torch.cat([parts.decoder(latent[None]).clamp(-1, 1) for latent in latents])
    colours = nn.functional.adaptive_avg_pool2d(decoded, size)
    known, wanted = (values.permute(0, 2, 3, 1).flatten(0, 2).double() for values in (latents, colours))
    known = torch.cat([known, torch.ones(len(known), 1, dtype=torch.float64)], dim=1)
    return torch.linalg.lstsq(known, wanted).solution.float().numpy()


@dataclass(frozen=True)
class ComponentCase:
    """Inputs of a part by name, batch 1, and what torch makes of them."""

    inputs: Mapping[str, np.ndarray]
    outputs: Sequence[np.ndarray]


def component_cases(checkpoint: Checkpoint) -> dict[str, ComponentCase]:
    """A case for each part, by its file; pictures are twice as wide as high."""
    parts = checkpoint.latent
    assert parts is not None
    cells = checkpoint.multiple_of
    step = cells * parts.factor

    def noise(*shape: int) -> Tensor:
        return torch.from_numpy(normal_numpy(0, 0, 0, 0, KIND_BEGIN, int(np.prod(shape))).reshape(1, *shape))

    examples: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {
        ENCODER: (parts.encoder, {"image": noise(3, step, 2 * step).clamp(-1, 1)}),
        DECODER: (parts.decoder, {"latent": noise(checkpoint.shape[0], cells, 2 * cells)}),
    }
    if (text := parts.text) is not None:
        ids = tuple(tuple(one) for one in prompt_ids(text)[PROMPTS[1]])
        filled = fill_up(ids, text_encoders(text), text.length)
        examples[TEXT] = (text.encoders, {name: torch.from_numpy(value) for name, value in filled.items()})
    cases = {}
    for file, (module, inputs) in examples.items():
        with torch.inference_mode():
            made = module(*inputs.values())
        outputs = [each.numpy() for each in (made if isinstance(made, tuple) else (made,))]
        cases[file] = ComponentCase({name: value.numpy() for name, value in inputs.items()}, outputs)
    return cases


def component_errors(
    bundle: Bundle, cases: Mapping[str, ComponentCase], tolerance: float
) -> dict[str, dict[str, float]]:
    """Each engine's error of each part against torch, relative to the largest output. Raises BundleError above it."""
    found: dict[str, dict[str, float]] = {}
    for file, case in cases.items():
        for engine in installed_engines():
            try:
                component = load_component(bundle, file, engine, available_processors())
                outputs = component(case.inputs).values()
            except EngineError as error:
                raise BundleError(f"the exported {file} does not run: {error}") from None
            worst = max(
                float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(outputs, case.outputs, strict=True)
            )
            if not worst <= tolerance:
                raise BundleError(
                    f"the exported {file} on {engine} differs from torch by {worst:.1e}, more than {tolerance:.0e}"
                )
            found.setdefault(file, {})[engine] = worst
    return found
