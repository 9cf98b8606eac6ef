"""NCSN++, DDPM++ and DDPM of score_sde (Song et al. 2021).

The list `all_modules` is walked in the order in which its parts run; the names of a part's tensors show its kind. A
file does not show the SDE, whether data were centred, whether sums of branches are rescaled, and, for BigGAN blocks
without convolutions of their own, whether resampling has FIR filters.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from sdedit.errors import CheckpointError

from ..networks.ncsnpp import NCSNpp, NCSNppConfig
from ..sde import LEVELS, exploding, geometric, linear, sub_variance_preserving, variance_preserving_sde
from .building import build_network
from .checkpoint import Checkpoint
from .contents import Contents
from .questions import SIZE, YES_OR_NO, Answers, GivenAnswers, Question, ask, parse_size

NAME = "NCSN++ network"

MAX_MODULES = 10_000

CONTINUOUS = ("ve", "vp", "subvp")
CIFAR10 = {"size": "32"}
VE = {"centred": "no", "skip_rescale": "yes", "fir": "yes"}
VP = {"schedule": "vp", "centred": "yes", "skip_rescale": "yes"}
DDPM = {"schedule": "vp-discrete", "centred": "yes", "skip_rescale": "no", "fir": "no"}

PUBLISHED: dict[str, dict[str, str]] = {
    "ve/bedroom_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "256"},
    "ve/celeba_ncsnpp": {**VE, "schedule": "ve-discrete", "size": "64"},
    "ve/celebahq_256_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "256"},
    "ve/celebahq_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "1024"},
    "ve/church_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "256"},
    "ve/cifar10_ddpm": {**VE, **CIFAR10, "schedule": "ve-discrete", "skip_rescale": "no", "fir": "no"},
    "ve/cifar10_ncsnpp": {**VE, **CIFAR10, "schedule": "ve-discrete"},
    "ve/cifar10_ncsnpp_continuous": {**VE, **CIFAR10, "schedule": "ve"},
    "ve/cifar10_ncsnpp_deep_continuous": {**VE, **CIFAR10, "schedule": "ve"},
    "ve/ffhq_256_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "256"},
    "ve/ffhq_ncsnpp_continuous": {**VE, "schedule": "ve", "size": "1024"},
    "vp/cifar10_ddpmpp": {**VP, **CIFAR10, "schedule": "vp-discrete", "fir": "no"},
    "vp/cifar10_ddpmpp_continuous": {**VP, **CIFAR10, "fir": "no"},
    "vp/cifar10_ddpmpp_deep_continuous": {**VP, **CIFAR10, "fir": "no"},
    "vp/cifar10_ncsnpp": {**VP, **CIFAR10, "schedule": "vp-discrete", "fir": "yes"},
    "vp/cifar10_ncsnpp_continuous": {**VP, **CIFAR10, "fir": "yes"},
    "vp/cifar10_ncsnpp_deep_continuous": {**VP, **CIFAR10, "fir": "yes"},
    "vp/ddpm/bedroom": {**DDPM, "size": "256"},
    "vp/ddpm/celebahq": {**DDPM, "size": "256"},
    "vp/ddpm/church": {**DDPM, "size": "256"},
    "vp/ddpm/cifar10": {**DDPM, **CIFAR10},
    "vp/ddpm/cifar10_continuous": {**DDPM, **CIFAR10, "schedule": "vp"},
    "subvp/cifar10_ddpm_continuous": {**DDPM, **CIFAR10, "schedule": "subvp"},
    "subvp/cifar10_ddpmpp_continuous": {**VP, **CIFAR10, "schedule": "subvp", "fir": "no"},
    "subvp/cifar10_ddpmpp_deep_continuous": {**VP, **CIFAR10, "schedule": "subvp", "fir": "no"},
    "subvp/cifar10_ncsnpp_continuous": {**VP, **CIFAR10, "schedule": "subvp", "fir": "yes"},
    "subvp/cifar10_ncsnpp_deep_continuous": {**VP, **CIFAR10, "schedule": "subvp", "fir": "yes"},
}
"""Answers of score_sde's configurations, by their names in score_sde."""

HINT = "or, for a published network, its --config, such as ve/church_ncsnpp_continuous"


class EpsFromScore(nn.Module):
    """eps = -sigma score. scaled: score_sde divides this network's output by sigma; then both factors are left out."""

    def __init__(self, network: NCSNpp, scaled: bool) -> None:
        super().__init__()
        self.network = network
        self.scaled = scaled

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.network(x, time)
        return -h if self.scaled else -h * self.network.sigma(time)[:, None, None, None]


def recognise(tensors: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("all_modules.") for name in tensors)


def load(contents: Contents, given: GivenAnswers) -> Checkpoint:
    """See loading.Family. The answer `config` answers all questions of a published network."""
    path = contents.path
    shape = read_config(contents)
    answers = _ask(contents, shape, given)
    schedule = answers["schedule"]
    exploding = schedule.startswith("ve")
    if not exploding and not answers.yes("centred"):
        raise CheckpointError(f"{path}: centred 'no' does not go with schedule {schedule}, which accepts yes")
    scaled = answers.yes("scale_by_sigma") if "scale_by_sigma" in answers.values else exploding
    config = dataclasses.replace(
        shape.config,
        fir=answers.yes("fir"),
        skip_rescale=answers.yes("skip_rescale"),
        scale_by_sigma=scaled and not exploding,  # else EpsFromScore would undo it
    )
    height, width = parse_size(path, answers["size"], config.multiple_of)
    network = build_network(contents, NAME, lambda: NCSNpp(config))
    return Checkpoint(
        path,
        sha256=contents.sha256,
        family=NAME,
        network=EpsFromScore(network, scaled) if exploding else network,  # type: ignore[arg-type] # it is an NCSNpp
        prediction="eps",
        schedule_name=schedule,
        schedule=make_schedule(contents, schedule, answers.yes("centred")),
        shape=(config.channels, height, width),
        multiple_of=config.multiple_of,
        weights=contents.weights,
        answers=answers,
        notes=(_describe(config), f"output {'divided by sigma' if scaled else 'not divided by sigma'} in score_sde"),
    )


def make_schedule(contents: Contents, name: str, centred: bool) -> np.ndarray:
    """The levels. Data in [-1, 1] are twice as wide as data in [0, 1], so their sigma is twice as large."""
    if name == "vp":
        return variance_preserving_sde()
    if name == "subvp":
        return sub_variance_preserving()
    if name == "vp-discrete":
        return linear()
    sigmas = contents.tensors["sigmas"].double().numpy()
    if len(sigmas) < 2 or not np.isfinite(sigmas).all() or sigmas.min() <= 0 or not (np.diff(sigmas) < 0).all():
        raise CheckpointError(f"{contents.path}: damaged: its sigmas do not fall from the largest to the smallest")
    scale = 1.0 if centred else 2.0
    if name == "ve":
        own = geometric(LEVELS, sigmas[-1], sigmas[0])
        return exploding(own, scale, own)
    return exploding(sigmas[::-1], scale, np.arange(len(sigmas) - 1, -1, -1, dtype=np.float64))


def _ask(contents: Contents, shape: "Shape", given: GivenAnswers) -> Answers:
    config = given.get("config")
    if config is not None and config not in PUBLISHED:
        raise CheckpointError(f"{contents.path}: config {config!r} is not one of {', '.join(PUBLISHED)}")
    known = {} if config is None else PUBLISHED[str(config)]
    accepted = CONTINUOUS if shape.config.fourier else ("ve-discrete", "vp", "vp-discrete", "subvp")
    asked = [
        Question("schedule", accepted, known.get("schedule")),
        Question("centred", YES_OR_NO, known.get("centred")),
        Question("skip_rescale", YES_OR_NO, known.get("skip_rescale")),
        Question("fir", YES_OR_NO, shape.fir or known.get("fir")),
        Question("size", SIZE, known.get("size")),
    ]
    if given.get("scale_by_sigma") is not None:  # never required: all published VE networks divide, others do not
        asked.append(Question("scale_by_sigma", YES_OR_NO))
    others = {name: value for name, value in given.items() if name != "config"}
    origin = "from the file" if config is None else f"from {config}"
    return ask(contents.path, f"an {NAME}", others, *asked, origin=origin, hint=HINT)


def _describe(config: NCSNppConfig) -> str:
    blocks = "BigGAN" if config.biggan else "DDPM"
    embedding = "Fourier" if config.fourier else "positional"
    return (
        f"{blocks} blocks, {embedding} embedding, FIR {'yes' if config.fir else 'no'}, "
        f"progressive {config.progressive}, progressive input {config.progressive_input}"
    )


# facts that shapes show


@dataclass(frozen=True)
class Shape:
    """config: all but fir, skip_rescale and scale_by_sigma. fir: "yes" or "no" if shapes show it, else None."""

    config: NCSNppConfig
    fir: str | None


@dataclass(frozen=True)
class Part:
    """A part of all_modules. kind: fourier, linear, conv, norm, block, attention, combine, resample, or none."""

    kind: str
    width_in: int = 0
    width_out: int = 0
    fir: bool = False
    biggan: bool = False  # a block whose shortcut is a convolution

    @property
    def resamples(self) -> bool:
        """Whether it ends a level on the way down: resampling alone, or inside a BigGAN block (its shortcut shows)."""
        if self.kind == "block":
            return self.biggan and self.width_in == self.width_out
        return self.kind in ("resample", "none")


def read_config(contents: Contents) -> Shape:
    """Walk the parts; raises CheckpointError if they form no such network."""
    sigmas = contents.tensors.get("sigmas")
    if sigmas is None or sigmas.ndim != 1:
        raise CheckpointError(f"{contents.path}: damaged: its sigmas are missing or no list; score_sde saves them")
    try:
        return Walk(read_parts(contents.tensors)).shape(len(sigmas))
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{contents.path}: damaged: its all_modules form no NCSN++: {error}") from None


def read_parts(tensors: Mapping[str, Tensor]) -> list[Part]:
    """The parts in order; ValueError for an unknown part."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"all_modules\.(\d{1,9})\.(\w[\w.]*)", name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = tensor
    if max(found, default=0) >= MAX_MODULES:
        raise ValueError(f"it has a part {max(found)}")
    return [read_part(index, found.get(index, {})) for index in range(max(found, default=-1) + 1)]


def read_part(index: int, tensors: Mapping[str, Tensor]) -> Part:
    """The part that these names show; ValueError for an unknown one."""
    kinds: list[tuple[str, Callable[[], Part]]] = [
        ("GroupNorm_1.weight", lambda: _block(tensors)),
        ("NIN_3.W", lambda: Part("attention")),
        ("W", lambda: Part("fourier")),
        ("Conv2d_0.weight", lambda: Part("resample", *_widths(tensors["Conv2d_0.weight"]), fir=True)),
        ("Conv_0.weight", lambda: _mixing(tensors["Conv_0.weight"])),
        ("weight", lambda: _plain(tensors["weight"])),
    ]
    if not tensors:
        return Part("none")
    for name, read in kinds:
        if name in tensors:
            return read()
    raise ValueError(f"part {index} has {', '.join(sorted(tensors))[:80]}")


def _block(tensors: Mapping[str, Tensor]) -> Part:
    if "Conv_0.weight" not in tensors:
        raise ValueError("a block lacks Conv_0.weight")
    return Part("block", *_widths(tensors["Conv_0.weight"]), biggan="Conv_2.weight" in tensors)


def _mixing(weight: Tensor) -> Part:
    widths = _widths(weight)
    return Part("combine" if weight.shape[3] == 1 else "resample", *widths)


def _plain(weight: Tensor) -> Part:
    if weight.ndim == 4:
        return Part("conv", *_widths(weight))
    return Part("linear" if weight.ndim == 2 else "norm")


def _widths(weight: Tensor) -> tuple[int, int]:
    """Input and output channels of a convolution."""
    if weight.ndim != 4 or not weight.numel():
        raise ValueError(f"a convolution has a weight of shape {list(weight.shape)}")
    return weight.shape[1], weight.shape[0]


class Walk:
    """The way down through the parts, level by level, to the beginning of the way up."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts = parts
        self.levels: list[list[Part]] = [[]]
        self.at = 0
        self.pyramid: Part | None = None
        self.with_conv = True
        self.cat = False

    def shape(self, sigmas: int) -> Shape:
        fourier = self.parts[0].kind == "fourier"
        self.at = int(fourier)
        conditional = self.parts[self.at].kind == "linear"
        self.at += 2 * conditional
        first = self.parts[self.at]
        if first.kind != "conv" or first.width_out % 4 or first.width_out < 8:
            raise ValueError(f"part {self.at} is no convolution to a multiple of 4 channels, at least 8")
        self.at += 1
        self._go_down(first.width_out)
        widths, blocks, attention = self._levels()
        if any(width % first.width_out for width in widths):
            raise ValueError(f"levels of {widths} channels are no multiples of {first.width_out}")
        config = NCSNppConfig(
            channels=first.width_in,
            width=first.width_out,
            width_multiples=tuple(width // first.width_out for width in widths),
            blocks=blocks,
            attention=attention,
            fourier=fourier,
            conditional=conditional,
            biggan=any(part.biggan for part in self.parts),
            resample_with_conv=self.with_conv,
            progressive=self._progressive(first.width_in),
            progressive_input=self._progressive_input(),
            combine="cat" if self.cat else "sum",
            sigmas=sigmas,
        )
        if config.channels not in (1, 3):
            raise ValueError(f"its images have {config.channels} channels, which are neither 1 nor 3")
        return Shape(config, self._fir())

    def _go_down(self, width: int) -> None:
        """Sort parts into levels; the way up begins at a block whose input is not the last part's output."""
        mixed = False
        while True:
            part = self.parts[self.at]
            if part.kind == "block" and part.width_in != width:
                if not (mixed and part.width_in == 2 * width):
                    return
                self.cat = True
            mixed = False
            self.at += 1
            if part.kind in ("block", "attention") and not part.resamples:
                self.levels[-1].append(part)
                width = part.width_out or width
            elif part.resamples:
                self.with_conv &= part.kind != "none"
                mixed = self._pass_pyramid()
                self.levels.append([])
            else:
                raise ValueError(f"part {self.at - 1} is a {part.kind} where a block, or its resampling, should be")

    def _pass_pyramid(self) -> bool:
        """Pass the progressive input's part after a halving; whether that is the mixing of input_skip."""
        part = self.parts[self.at]
        if part.kind not in ("combine", "resample"):
            return False
        self.pyramid = part
        self.at += 1
        return part.kind == "combine"

    def _levels(self) -> tuple[list[int], int, tuple[int, ...]]:
        """Widths, blocks a level, levels with attention. The coarsest holds the middle too: block, attention, block."""
        *_, coarsest = self.levels
        if [part.kind for part in coarsest[-3:]] != ["block", "attention", "block"]:
            raise ValueError("there is no middle of block, attention, block before the way up")
        levels = [*self.levels[:-1], coarsest[:-3]]
        blocks = {sum(part.kind == "block" for part in level) for level in levels}
        if len(blocks) != 1 or 0 in blocks:
            raise ValueError("its levels do not have the same number of blocks")
        attention = tuple(i for i, level in enumerate(levels) if any(part.kind == "attention" for part in level))
        widths = [next(part.width_out for part in level if part.kind == "block") for level in levels]
        return widths, blocks.pop(), attention

    def _progressive_input(self) -> str:
        if self.pyramid is None:
            return "none"
        return "input_skip" if self.pyramid.kind == "combine" else "residual"

    def _progressive(self, channels: int) -> str:
        """The kind of progressive output: each output has a convolution after a norm that stands alone."""
        projections = [
            b for a, b in zip(self.parts, self.parts[1:], strict=False) if (a.kind, b.kind) == ("norm", "conv")
        ]
        if projections and projections[0].width_out != channels:
            return "residual"
        return "output_skip" if len(projections) > 1 else "none"

    def _fir(self) -> str | None:
        """Whether resampling has FIR filters: its convolutions then have other names. One level has no resampling."""
        resampling = [part for part in self.parts if part.kind == "resample"]
        if len(self.levels) == 1 and not resampling:
            return "no"
        return ("yes" if resampling[0].fir else "no") if resampling else None
