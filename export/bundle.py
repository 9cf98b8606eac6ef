"""Write a bundle and verify it: its files, read back and run by the runtime's engines, give torch's outputs."""

import gc
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn

from sdedit import __version__
from sdedit.errors import BundleError, CheckpointError, EngineError, reason
from sdedit.kernels.layout import MAX_ELEMENTS
from sdedit.runtime.bundle import (
    MODEL_CARD,
    NETWORK,
    PIXELS,
    PIXELS_PARITY,
    REFERENCE,
    SCHEDULE,
    Bundle,
    TensorSpec,
    read_bundle,
    resized,
    staged,
    write_manifest,
)
from sdedit.runtime.checks.parity import (
    errors_against,
    measure_errors,
    parity_conditions,
    parity_input,
    parity_label,
    relative_error,
)
from sdedit.runtime.engines import installed_engines, load_engine
from sdedit.runtime.machine import available_processors, return_free_memory
from sdedit_ref.checkpoints import Checkpoint
from sdedit_ref.checkpoints.checkpoint import LatentParts

from .additions import Addition, add_parts
from .latent import component_cases, component_errors, prompt_ids, text_fields, write_components
from .onnx_graph import round_to_half, save_onnx, to_onnx

TOLERANCE = 1e-4
"""Largest error of the engine against the reference with the same rounded weights, relative to the largest output."""

MIDDLE, ROUNDED = 2, (0, 4)
"""Numbers of parity levels: the one at which another size is verified, and those at which rounding is measured. Sizes
and levels do not depend on each other, and an evaluation of a large network takes seconds."""

WEIGHTS = ("half", "float32")

AREA = 4
"""Areas of a network that nobody has tried at other sizes end here: twice the sides that it was trained at."""

MAX_CARD_BYTES = 1 << 20


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    name: str,
    licence: str,
    weights: str = "half",
    fixed: bool = False,
    max_pixels: int | None = None,
    card: Path | None = None,
    additions: Sequence[Addition] = (),
    release: bool = False,
    say: Callable[[str], None] = print,
) -> Bundle:
    """Write `checkpoint` as a bundle to folder `out`, which is replaced only by a bundle that was verified.

    weights: how they are stored; with "half" the checkpoint's own network is rounded, in place: a copy of a large one
    costs gigabytes. fixed: the bundle takes images of the checkpoint's size only. max_pixels: the largest area that the
    network does well; None: AREA times its own. card: a text about the model, kept as MODEL_CARD.md. additions: parts
    to add before anything is replaced; say: takes a line on each. release: let go of the checkpoint's weights before
    engines load theirs; the checkpoint is of no use afterwards.

    Raises BundleError if the bundle cannot be written or differs from the reference.
    """
    if weights not in WEIGHTS:
        raise BundleError(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}")
    image = image_fields(checkpoint, fixed, max_pixels)
    card_bytes = None if card is None else read_card(card)
    levels = parity_levels(len(checkpoint.schedule))
    half = weights == "half"
    with staged(out) as folder:
        outputs, rounding = stored_outputs(checkpoint, levels, half)
        write_network(folder / NETWORK, checkpoint, image["free"], half)
        np.save(folder / SCHEDULE, checkpoint.schedule)
        np.save(folder / REFERENCE, outputs)
        others = [other_shape(checkpoint.shape, checkpoint.multiple_of)] if image["free"] else []
        references = {other: reference_outputs(checkpoint, levels, other, [MIDDLE]) for other in others}
        if release:
            release_weights(checkpoint.network)
        cases = {}
        if (parts := checkpoint.latent) is not None:
            write_components(folder, checkpoint, half)
            cases = component_cases(checkpoint)
            if release:
                release_weights(parts.encoder, parts.decoder, *([] if parts.text is None else [parts.text.encoders]))
        if card_bytes is not None:
            (folder / MODEL_CARD).write_bytes(card_bytes)
        fields = {**manifest_fields(checkpoint, name, licence), "image": image}
        parity: dict[str, Any] = {"levels": levels, "weights": weights, "weights_rounding": rounding}
        unmeasured = {"max_relative_error": 0.0, "engines": {}, "sizes": {}, **PIXELS_PARITY}
        known = write_manifest(folder, {**fields, "parity": {**parity, **unmeasured}})
        parity |= {**PIXELS_PARITY, **verify(read_bundle(folder), references)}
        if parts is not None:
            parity["components"] = component_errors(read_bundle(folder), cases, TOLERANCE)
            if parts.text is not None:
                parity["prompts"] = prompt_ids(parts.text)
        write_manifest(folder, {**fields, "parity": parity}, known)
        if additions:
            add_parts(read_bundle(folder), folder, additions, say)
    return read_bundle(out)


def write_network(path: Path, checkpoint: Checkpoint, free: bool, half: bool) -> None:
    """Write the network's ONNX file. free: its sizes are. half: how weights are stored."""
    model = to_onnx(
        checkpoint.network,
        checkpoint.shape,
        checkpoint.classes > 0,
        checkpoint.multiple_of if free else None,
        checkpoint.inputs,
        head_by_head=checkpoint.latent is not None,
    )
    save_onnx(model, path, half)


def stored_outputs(checkpoint: Checkpoint, levels: list[int], half: bool) -> tuple[np.ndarray, float]:
    """The network's outputs at all levels with its weights as they are stored, and the largest error of their rounding.

    half: the weights are rounded to half, in place; what that changes is measured at the levels ROUNDED. Raises
    BundleError if half cannot hold them.
    """
    if not half:
        outputs = reference_outputs(checkpoint, levels, checkpoint.shape)
        check_finite(checkpoint, outputs)
        return outputs, 0.0
    exact = reference_outputs(checkpoint, levels, checkpoint.shape, ROUNDED)
    check_finite(checkpoint, exact)
    round_to_half(checkpoint.network)
    outputs = reference_outputs(checkpoint, levels, checkpoint.shape)
    rounding = relative_error(outputs[list(ROUNDED)], exact)
    if not math.isfinite(rounding) or not np.isfinite(outputs).all():
        raise BundleError(f"weights half cannot hold those of {checkpoint.path}: choose float32")
    return outputs, rounding


def release_weights(*modules: nn.Module) -> None:
    """Let go of the memory of these networks."""
    for module in modules:
        module.to("meta")
    gc.collect()  # an exporter's graph holds itself
    return_free_memory()


def read_card(path: Path) -> bytes:
    """The text of a model card; raises BundleError if the file is not a text of MAX_CARD_BYTES at most."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise BundleError(f"card {path} is not a file")
        with path.open("rb") as file:
            text = file.read(MAX_CARD_BYTES + 1)
        text.decode("utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(f"card {path} cannot be read: {reason(error)}") from None
    if len(text) > MAX_CARD_BYTES:
        raise BundleError(f"card {path} is larger than {MAX_CARD_BYTES} bytes")
    return text


def parity_levels(levels: int) -> list[int]:
    """Five noise levels, from the cleanest to the noisiest; MIDDLE and ROUNDED are numbers of them."""
    return [max(1, round(levels * part)) for part in (0.001, 0.25, 0.5, 0.75, 1.0)]


def image_fields(checkpoint: Checkpoint, fixed: bool, max_pixels: int | None) -> dict[str, Any]:
    """The manifest's `image`. Raises BundleError for a max_pixels that it cannot have."""
    channels, height, width = checkpoint.shape
    multiple_of = math.gcd(height, width) if fixed else checkpoint.multiple_of
    if checkpoint.latent is not None:
        factor = checkpoint.latent.factor
        channels, height, width, multiple_of = 3, height * factor, width * factor, multiple_of * factor
    pixels = height * width
    if fixed and max_pixels not in (None, pixels):
        raise BundleError(f"max_pixels {max_pixels} is not {pixels}, the only size of a bundle with fixed sizes")
    largest = MAX_ELEMENTS // channels
    if max_pixels is not None and not pixels <= max_pixels <= largest:
        raise BundleError(f"max_pixels {max_pixels} is not in {pixels}..{largest}")
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "multiple_of": multiple_of,
        "free": not fixed,
        "max_pixels": max_pixels or (pixels if fixed else min(AREA * pixels, largest)),
    }


def other_shape(shape: tuple[int, int, int], multiple_of: int) -> tuple[int, int, int]:
    """Another shape to verify: half as high, or higher where there is no half, and wider, so that it is not square."""
    channels, height, width = shape
    return channels, height // 2 // multiple_of * multiple_of or height + 2 * multiple_of, width + multiple_of


def reference_outputs(
    checkpoint: Checkpoint, levels: list[int], shape: tuple[int, int, int], numbers: Sequence[int] | None = None
) -> np.ndarray:
    """The network's outputs for states of `shape`, float32 [L, C, H, W], for the inputs of parity.py.

    numbers: of the levels to take; None: all.
    """
    network, schedule = checkpoint.network, checkpoint.schedule
    outputs = []
    for index in range(len(levels)) if numbers is None else numbers:
        k = levels[index]
        x = torch.from_numpy(parity_input(schedule, k, index, shape))
        time = torch.tensor([schedule[k - 1, 2]], dtype=torch.float32)
        conditions = {"label": np.array([parity_label(index, checkpoint.classes)])} if checkpoint.classes else {}
        conditions |= parity_conditions(input_specs(checkpoint, shape), index)
        with torch.inference_mode():
            out = network(x, time, **{name: torch.from_numpy(value) for name, value in conditions.items()})
        outputs.append(out.numpy())
    return np.concatenate(outputs)


def input_specs(checkpoint: Checkpoint, shape: tuple[int, int, int]) -> dict[str, TensorSpec]:
    """The network's inputs besides time and label, for states of that shape."""
    shapes = {"x": shape, **checkpoint.inputs}
    return resized({name: TensorSpec(np.dtype(np.float32), size) for name, size in shapes.items()}, shape)


def verify(bundle: Bundle, references: Mapping[tuple[int, int, int], np.ndarray]) -> dict[str, Any]:
    """Errors of each installed engine against the reference, as the manifest's `parity` has them.

    references: the reference's outputs at level MIDDLE, by the shape of states, besides those that the bundle has.
    Raises BundleError above TOLERANCE.
    """
    engines: dict[str, list[float]] = {}
    sizes: dict[str, dict[str, float]] = {}
    for name in installed_engines():
        engines[name], others = engine_errors(bundle, name, references)
        for size, error in others.items():
            sizes.setdefault(size, {})[name] = error
    return {"max_relative_error": max(map(max, engines.values())), "engines": engines, "sizes": sizes}


def engine_errors(
    bundle: Bundle, name: str, references: Mapping[tuple[int, int, int], np.ndarray]
) -> tuple[list[float], dict[str, float]]:
    """One engine's errors at all levels, and at other sizes at level MIDDLE. Raises BundleError above TOLERANCE."""
    sizes: dict[str, float] = {}
    try:
        engine = load_engine(bundle, name, "float32", available_processors())
        errors = measure_errors(bundle, engine)
        check_errors(bundle, name, bundle.state_shape, dict(enumerate(errors)))
        for shape, outputs in references.items():
            (error,) = errors_against(bundle, engine, outputs, [MIDDLE])
            check_errors(bundle, name, shape, {MIDDLE: error})
            sizes[f"{shape[1]}x{shape[2]}"] = error
    except EngineError as error:
        raise BundleError(f"the exported network does not load: {error}") from None
    return errors, sizes


def check_errors(bundle: Bundle, engine: str, shape: tuple[int, ...], errors: Mapping[int, float]) -> None:
    """Raise BundleError above TOLERANCE. errors: by number of the level."""
    for number, found in errors.items():
        if not found <= TOLERANCE:
            raise BundleError(
                f"the exported network on {engine} differs from the reference by {found:.1e} at level "
                f"{bundle.reference_levels[number]} and {shape[1]}x{shape[2]} pixels, more than {TOLERANCE:.0e}"
            )


def check_finite(checkpoint: Checkpoint, outputs: np.ndarray) -> None:
    if not np.isfinite(outputs).all() or not np.abs(outputs).max(axis=(1, 2, 3)).all():
        raise CheckpointError(f"{checkpoint.path}: damaged: its network returns zeros, infinities or NaN")


def manifest_fields(checkpoint: Checkpoint, name: str, licence: str) -> dict[str, Any]:
    """The manifest's keys that only the checkpoint decides."""
    return {
        "name": name,
        "licence": licence,
        "source": {"name": checkpoint.path.name, "sha256": checkpoint.sha256},
        "prediction": checkpoint.prediction,
        "conditioning": "label" if checkpoint.classes else "none",
        "classes": checkpoint.classes,
        "null_label": checkpoint.null_label,
        "schedule": {"name": checkpoint.schedule_name, "levels": len(checkpoint.schedule)},
        **PIXELS,
        **({} if checkpoint.latent is None else latent_fields(checkpoint, checkpoint.latent)),
        "exported_with": {
            "sdedit": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "numpy": np.__version__,
        },
    }


def latent_fields(checkpoint: Checkpoint, parts: LatentParts) -> dict[str, Any]:
    """The manifest's keys of a latent network; its data have no bound."""
    return {
        "latent": {"channels": checkpoint.shape[0], "factor": parts.factor},
        "inputs": {name: {"dtype": "float32", "shape": list(shape)} for name, shape in checkpoint.inputs.items()},
        "text": None if parts.text is None else text_fields(parts.text),
        "clip": None,
        "suggested": dict(parts.suggested),
    }
