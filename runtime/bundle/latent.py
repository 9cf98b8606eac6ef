"""Fields of bundle.json for networks that work on an autoencoder's latents, and for those that take text."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from sdedit.kernels.layout import MAX_ELEMENTS

from .records import Problems

ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"
PREVIEW = "preview.npy"
TEXT = "text.onnx"

KNOWN = "known"
"""Name of the input [1 + C, h, w] that has the size of x: an inpainting network's mask and masked latent."""

CONDITIONS = ("context", "pooled", "size", KNOWN, "guidance")
"""Names of a network's inputs besides x, time and label: the text's embedding [L, D], the pooled one [P], SDXL's sizes
[6], KNOWN, and guidance as a number, for networks that were distilled with it."""

GUIDANCES = ("free", "embedded", "none")
"""How a network takes guidance: from an unconditional pass, as an input, or not at all (it was distilled without)."""

MAX_FACTOR = 64
MAX_TOKENS = 1024
MAX_ENCODERS = 4


@dataclass(frozen=True)
class Latent:
    """The autoencoder: channels of its latents, and how many pixels one of their cells is high and wide."""

    channels: int
    factor: int

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        problems.require(fields.get("channels", 1) >= 1, f"{where}.channels {fields.get('channels')} is not at least 1")
        factor = fields.get("factor", 1)
        problems.require(1 <= factor <= MAX_FACTOR, f"{where}.factor {factor} is not in 1..{MAX_FACTOR}")


@dataclass(frozen=True)
class InputSpec:
    """An input of the network besides x, time and label: dtype, and shape without the batch."""

    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        problems.require(fields.get("dtype", "float32") == "float32", f"{where}.dtype is not float32")
        shape = fields.get("shape", ())
        fits = len(shape) <= 3 and all(size >= 1 for size in shape) and prod(shape) <= MAX_ELEMENTS
        problems.require(fits, f"{where}.shape {list(shape)} is not a shape")


@dataclass(frozen=True)
class TextEncoder:
    """One encoder of the text. folder: of its tokenizer, in the bundle. tokens: number of ids that it embeds.

    bos, eos, pad: ids of the marks at the beginning and the end of a text, and of what fills it up.
    """

    folder: str
    tokens: int
    bos: int
    eos: int
    pad: int

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        tokens = fields.get("tokens", 1)
        for name in ("bos", "eos", "pad"):
            mark = fields.get(name, 0)
            problems.require(0 <= mark < tokens, f"{where}.{name} {mark} is not in 0..{tokens - 1}")

    @property
    def files(self) -> tuple[str, str]:
        """The vocabulary and the merges of its tokenizer."""
        return f"{self.folder}/vocab.json", f"{self.folder}/merges.txt"


@dataclass(frozen=True)
class Text:
    """How the network takes text. length: tokens of a text with its marks. guidance: one of GUIDANCES.

    zero_negative: the unconditional pass has zeros for a text unless a negative one is given, as SDXL was trained.
    """

    length: int
    encoders: tuple[TextEncoder, ...]
    guidance: str
    zero_negative: bool

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        length, count = fields.get("length", 3), len(fields.get("encoders", "1"))
        problems.require(3 <= length <= MAX_TOKENS, f"{where}.length {length} is not in 3..{MAX_TOKENS}")
        problems.require(1 <= count <= MAX_ENCODERS, f"{where} has {count} encoders, not 1..{MAX_ENCODERS}")
        guidance = fields.get("guidance", "free")
        problems.require(guidance in GUIDANCES, f"{where}.guidance {guidance!r} is not one of {', '.join(GUIDANCES)}")

    @property
    def token_inputs(self) -> dict[str, int]:
        """The inputs of text.onnx, one an encoder, and the number of ids of each."""
        return {f"tokens_{number}": encoder.tokens for number, encoder in enumerate(self.encoders)}


@dataclass(frozen=True)
class Suggested:
    """Options of an edit that suit the model; None where the runtime's own default does."""

    t0: float | None = None
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None

    def given(self) -> dict[str, Any]:
        """The options that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


PIXELS: dict[str, Any] = {
    "latent": None,
    "inputs": {},
    "text": None,
    "clip": 1.0,
    "suggested": {"t0": None, "steps": None, "sampler": None, "guidance": None},
}
"""Keys of bundle.json as a network of pixels without text has them."""

PIXELS_PARITY: dict[str, Any] = {"components": {}, "prompts": {}}
"""Keys of its `parity`."""


def check_components(fields: Mapping[str, Any], problems: Problems) -> None:
    """Note files, inputs and texts that do not fit each other."""
    latent, text, inputs, files = (fields[name] for name in ("latent", "text", "inputs", "files"))
    needed = [ENCODER, DECODER, PREVIEW] if latent else []
    if text:
        needed += [TEXT, *(file for encoder in text.encoders for file in encoder.files)]
        problems.require("context" in inputs, "text is given, but inputs lack context")
        embedded = text.guidance == "embedded"
        problems.require(
            embedded == ("guidance" in inputs), f"text.guidance {text.guidance!r} does not fit inputs {sorted(inputs)}"
        )
    for name in needed:
        problems.require(name in files, f"files lack {name}")
    for name in inputs:
        problems.require(name in CONDITIONS, f"inputs: {name!r} is not one of {', '.join(CONDITIONS)}")
    if not text:
        problems.require(not inputs, f"inputs {sorted(inputs)} are given, but text is null")
    clip = fields["clip"]
    problems.require(clip is None or clip > 0, f"clip {clip} is not above 0 or null")


def check_shapes(fields: Mapping[str, Any], problems: Problems) -> None:
    """Note native sizes and input sizes that are no states of the autoencoder."""
    latent, image, inputs = fields["latent"], fields["image"], fields["inputs"]
    if KNOWN in inputs and not latent:
        problems.append(f"inputs have {KNOWN}, but latent is null")
    elif KNOWN in inputs:
        wanted = (1 + latent.channels, image.height // latent.factor, image.width // latent.factor)
        problems.require(inputs[KNOWN].shape == wanted, f"inputs.{KNOWN}.shape is not {list(wanted)}")
    if latent and image.multiple_of % latent.factor:
        problems.append(f"image.multiple_of {image.multiple_of} is not a multiple of latent.factor {latent.factor}")
