"""bundle.json: its keys, their types and their history."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdedit.errors import BundleError, git_lfs_hint
from sdedit.kernels.layout import MAX_ELEMENTS

from ..schedule import MAX_LEVELS, PREDICTIONS
from .files import MANIFEST, FileEntry
from .latent import (
    KNOWN,
    PIXELS,
    PIXELS_PARITY,
    InputSpec,
    Latent,
    Suggested,
    Text,
    check_components,
    check_shapes,
)
from .records import Problems, read_record, to_json

REVISION = 4
"""Bump when a reader of the old revision would misread or reject the new files, never otherwise."""

READABLE = (1, 2, 3, REVISION)

NETWORK = "network.onnx"
SCHEDULE = "schedule.npy"
REFERENCE = "reference.npy"
MODEL_CARD = "MODEL_CARD.md"

CONDITIONINGS = ("none", "label")
MAX_CLASSES = 1_000_000


@dataclass(frozen=True)
class TensorSpec:
    """One input of a network: its dtype, and its shape without the batch that comes first."""

    dtype: np.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """The checkpoint that was exported."""

    name: str
    sha256: str


@dataclass(frozen=True)
class ImageSpec:
    """Sizes of the network's images. height, width: the native size, which it was trained for.

    free: whether the network takes any height and width that are multiples of multiple_of, else the native size only.
    max_pixels: the largest area that it was found to do well.
    """

    channels: int
    height: int
    width: int
    multiple_of: int
    free: bool
    max_pixels: int

    @classmethod
    def fixed(cls, channels: int, height: int, width: int) -> "ImageSpec":
        """One size only."""
        return cls(channels, height, width, math.gcd(height, width), False, height * width)

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        if len(fields) < 6:
            return
        image = ImageSpec(**fields)
        pixels = image.height * image.width
        if min(fields[name] for name in fields if name != "free") < 1 or image.channels * pixels > MAX_ELEMENTS:
            problems.append(f"{where} {fields} is not a size")
        elif image.height % image.multiple_of or image.width % image.multiple_of:
            problems.append(f"{where} {fields} is not a multiple of multiple_of")
        elif image.max_pixels < pixels or image.max_pixels * image.channels > MAX_ELEMENTS:
            problems.append(
                f"{where}.max_pixels {image.max_pixels} is not in {pixels}..{MAX_ELEMENTS // image.channels}"
            )
        elif not image.free and image.max_pixels != pixels:
            problems.append(f"{where}.max_pixels {image.max_pixels} is not {pixels}, the only size")


@dataclass(frozen=True)
class ScheduleSpec:
    """Name of the schedule's family, and number of its levels."""

    name: str
    levels: int

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        levels = fields.get("levels", 1)
        problems.require(1 <= levels <= MAX_LEVELS, f"{where}.levels {levels} is not in 1..{MAX_LEVELS}")


@dataclass(frozen=True)
class Parity:
    """Errors measured at export, relative to the largest output at a level.

    levels: the levels k of the reference's outputs. max_relative_error: the largest error of any engine. engines: by
    name, the error at each level. sizes: by HEIGHTxWIDTH, each engine's largest error at another size than the native
    one. weights: how weights are stored. weights_rounding: error of that rounding alone. components: by file, each
    engine's error of the autoencoder's and the text's networks. prompts: texts and their ids, one list an encoder.
    """

    levels: tuple[int, ...]
    max_relative_error: float
    engines: Mapping[str, tuple[float, ...]]
    sizes: Mapping[str, Mapping[str, float]]
    weights: str
    weights_rounding: float
    components: Mapping[str, Mapping[str, float]]
    prompts: Mapping[str, tuple[tuple[int, ...], ...]]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a bundle. classes: number of labels, 0 without conditioning. null_label: the label of no class.

    prediction: eps, v, x0 or flow. conditioning: none or label. files: every file but the manifest, by its path.
    latent: the autoencoder whose latents the network works on; None: pixels. inputs: the network's inputs besides x,
    time and label, by name. text: how it takes text; None: it takes none. clip: bound of its data; None: none.
    suggested: options that suit it.
    """

    revision: int
    name: str
    licence: str
    source: Source
    image: ImageSpec
    prediction: str
    conditioning: str
    classes: int
    null_label: int | None
    latent: Latent | None
    inputs: Mapping[str, InputSpec]
    text: Text | None
    clip: float | None
    suggested: Suggested
    schedule: ScheduleSpec
    files: Mapping[str, FileEntry]
    exported_with: Mapping[str, str]
    parity: Parity

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        del where
        name = fields.get("name", "")
        problems.require(name.isprintable(), f"name {name!r} is not printable")
        for key, accepted in (("prediction", PREDICTIONS), ("conditioning", CONDITIONINGS)):
            if key in fields:
                problems.require(fields[key] in accepted, f"{key} {fields[key]!r} is not one of {', '.join(accepted)}")
        if "files" in fields:
            check_files(fields["files"], problems)
        if {"conditioning", "classes", "null_label"} <= fields.keys():
            check_labels(fields["conditioning"], fields["classes"], fields["null_label"], problems)
        if {"parity", "schedule"} <= fields.keys():
            check_parity(fields["parity"], fields["schedule"].levels, problems)
        if {"latent", "inputs", "text", "clip", "files"} <= fields.keys():
            check_components(fields, problems)
        if {"latent", "image", "inputs"} <= fields.keys():
            check_shapes(fields, problems)

    def to_json(self) -> dict[str, Any]:
        """Its keys and values as bundle.json has them."""
        fields: dict[str, Any] = to_json(self)
        return fields


def network_inputs(state_shape: tuple[int, int, int], classes: int = 0) -> dict[str, TensorSpec]:
    """The inputs of a network of states [C, H, W]: x and time, and a label if it takes that many classes."""
    inputs = {"x": TensorSpec(np.dtype(np.float32), state_shape), "time": TensorSpec(np.dtype(np.float32), ())}
    return {**inputs, "label": TensorSpec(np.dtype(np.int64), ())} if classes else inputs


def resized(inputs: Mapping[str, TensorSpec], shape: tuple[int, ...]) -> dict[str, TensorSpec]:
    """The inputs for states [C, H, W] of another size, which x has, and what an inpainting network is told to keep."""
    pictures = {name: inputs[name] for name in ("x", KNOWN) if name in inputs}
    return {**inputs, **{name: TensorSpec(s.dtype, (s.shape[0], *shape[1:])) for name, s in pictures.items()}}


def parse_manifest(path: Path, text: bytes) -> Manifest:
    """The manifest, with old revisions in today's terms; raises one BundleError that names every problem."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise BundleError(f"bundle {path}: {MANIFEST} is not valid JSON{git_lfs_hint(text)}") from None
    revision = fields.get("revision") if isinstance(fields, dict) else None
    if type(revision) is not int:
        raise BundleError(f"bundle {path}: {MANIFEST} states no revision")
    if revision not in READABLE:
        hint = "a newer sdedit is needed" if revision > REVISION else "export it again"
        raise BundleError(f"bundle {path}: revision {revision} is not in {READABLE}, which this version reads: {hint}")
    problems = Problems()
    manifest = read_record(Manifest, upgraded(fields), "", problems)
    if manifest is None:
        raise BundleError(f"bundle {path}: {MANIFEST}: {problems}")
    return manifest


def upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields in terms of the newest revision. The history of the revisions:

    1: no classes, null_label and parity.engines; a network had no labels.
    2: no image.free, image.max_pixels and parity.sizes; a network had one size.
    3: free sizes; no latent, inputs, text, clip, suggested, parity.components and parity.prompts.
    4: latent diffusion and text.
    """
    if fields["revision"] == 1:
        fields = {"classes": 0, "null_label": None, **fields}
        if isinstance(fields.get("parity"), dict):
            fields["parity"] = {"engines": {}, **fields["parity"]}
    if fields["revision"] <= 2:
        fields = dict(fields)
        image, parity = fields.get("image"), fields.get("parity")
        if isinstance(image, dict) and all(type(image.get(side)) is int for side in ("height", "width")):
            fields["image"] = {"free": False, "max_pixels": image["height"] * image["width"], **image}
        if isinstance(parity, dict):
            fields["parity"] = {"sizes": {}, **parity}
    if fields["revision"] <= 3:
        fields = {**PIXELS, **fields}
        if isinstance(fields.get("parity"), dict):
            fields["parity"] = {**PIXELS_PARITY, **fields["parity"]}
    return fields


def check_files(files: Mapping[str, FileEntry], problems: Problems) -> None:
    """Note paths that leave the bundle, sizes below 0, and files that every bundle has and this one does not list."""
    for name, entry in files.items():
        problems.require(stays_inside(name), f"files: path {name!r} does not stay in the bundle")
        problems.require(entry.bytes >= 0, f"files[{name!r}].bytes {entry.bytes} is below 0")
    for name in (NETWORK, SCHEDULE, REFERENCE):
        problems.require(name in files, f"files lack {name}")


def check_parity(parity: Parity, last: int, problems: Problems) -> None:
    """Note levels that are none of 1 .. last, and engines with more or fewer errors than levels."""
    levels = parity.levels
    known = bool(levels) and all(1 <= k <= last for k in levels)
    problems.require(known, f"parity.levels {list(levels)} are not levels of the schedule")
    for name, errors in parity.engines.items():
        fits = len(errors) == len(levels)
        problems.require(fits, f"parity.engines[{name!r}] has {len(errors)} errors for {len(levels)} levels")


def check_labels(conditioning: str, classes: int, null: int | None, problems: Problems) -> None:
    """Note a number of classes or a null label that does not fit the conditioning."""
    accepted = range(1, MAX_CLASSES + 1) if conditioning == "label" else range(1)
    problems.require(
        classes in accepted,
        f"classes {classes} is not in {accepted[0]}..{accepted[-1]}, with conditioning {conditioning}",
    )
    fits = null is None or (classes > 0 and 0 <= null <= classes)
    problems.require(fits, f"null_label {null} is not in 0..classes")


def stays_inside(name: str) -> bool:
    """Whether it is a plain relative path. With a `*` onnxruntime marks data at an address in memory, not in a file."""
    pure = PurePosixPath(name)
    plain = name.isprintable() and not set(name) & set("\\:*") and str(pure) == name != "."
    return plain and not pure.is_absolute() and ".." not in pure.parts
