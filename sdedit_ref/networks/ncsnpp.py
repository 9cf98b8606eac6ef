"""NCSN++ and DDPM++ of Song et al. 2021, appendix H, with the parameter names of score_sde's checkpoints.

score_sde keeps all parts in one list, `all_modules`, in the order in which they run; parameters are named as there, so
a state dict loads with strict=True. Convolutions are 3x3; activations are SiLU; attention has one head.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .ddpm import time_embedding

FIR_KERNEL = (1.0, 3.0, 3.0, 1.0)
"""FIR filter of resampling along one axis. Files do not hold it; all published networks have this one."""


@dataclass(frozen=True)
class NCSNppConfig:
    """Shape of the network.

    attention: levels (0 = finest) with self-attention. fourier: the time embedding is of log time, at stored random
    frequencies, else DDPM's. conditional: the network takes the time. biggan: blocks of BigGAN, which resample, else
    DDPM's with separate resampling, in which a convolution may be (`resample_with_conv`). progressive: none,
    output_skip, residual. progressive_input: none, input_skip, residual. combine: how input_skip is mixed in: sum, cat.
    skip_rescale: every sum of two branches is divided by sqrt 2. scale_by_sigma: so is the output, by its sigma.
    """

    channels: int = 3
    width: int = 128
    width_multiples: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    fourier: bool = True
    conditional: bool = True
    biggan: bool = True
    fir: bool = True
    resample_with_conv: bool = True
    progressive: str = "output_skip"
    progressive_input: str = "input_skip"
    combine: str = "sum"
    skip_rescale: bool = True
    scale_by_sigma: bool = True
    sigmas: int = 2000

    @property
    def multiple_of(self) -> int:
        """Height and width must be multiples of this: each level but the last halves them."""
        return 2 ** (len(self.width_multiples) - 1)

    @property
    def time_width(self) -> int:
        """Width of the time embedding that blocks take."""
        return 4 * self.width


def group_norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(width // 4, 32), width, eps=1e-6)


def convolution(width_in: int, width_out: int) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, 3, padding=1)


def merge(x: Tensor, h: Tensor, rescale: bool) -> Tensor:
    """The sum of two branches. rescale: divide it by sqrt 2, so that its variance is 1 again."""
    return (x + h) / math.sqrt(2) if rescale else x + h


def fir_weight(channels: int, gain: float, like: Tensor) -> Tensor:
    """FIR_KERNEL on both axes, scaled to the sum `gain`, for each channel: [channels, 1, 4, 4]."""
    total = sum(FIR_KERNEL) ** 2 / gain
    kernel = torch.tensor([[a * b / total for b in FIR_KERNEL] for a in FIR_KERNEL], dtype=like.dtype)
    return kernel.to(like.device).expand(channels, 1, *kernel.shape)


def fir_filter(x: Tensor, gain: float, pad: int, stride: int = 1) -> Tensor:
    """x [B, C, H, W], padded with zeros and filtered; every stride-th pixel is kept."""
    channels = x.shape[1]
    return F.conv2d(x, fir_weight(channels, gain, x), padding=pad, stride=stride, groups=channels)


def upsample(x: Tensor, fir: bool) -> Tensor:
    """[B, C, H, W] -> [B, C, 2 H, 2 W]"""
    if not fir:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    channels = x.shape[1]
    return F.conv_transpose2d(x, fir_weight(channels, 4.0, x), padding=1, stride=2, groups=channels)


def downsample(x: Tensor, fir: bool) -> Tensor:
    """[B, C, H, W] -> [B, C, H / 2, W / 2]"""
    return fir_filter(x, 1.0, pad=1, stride=2) if fir else F.avg_pool2d(x, 2)


class FourierEmbedding(nn.Module):
    """log time [B] -> [B, 2 width]. The frequencies W are random and not trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width), requires_grad=False)

    def forward(self, log_time: Tensor) -> Tensor:
        angles = log_time[:, None] * self.W[None, :] * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class NIN(nn.Module):
    """A linear layer over channels ("network in network"); W is [in, out]."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width_in, width_out) / math.sqrt(width_in))
        self.b = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


class Attention(nn.Module):
    """Self-attention of one head over all positions."""

    def __init__(self, width: int, rescale: bool) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(width)
        self.NIN_0 = NIN(width, width)
        self.NIN_1 = NIN(width, width)
        self.NIN_2 = NIN(width, width)
        self.NIN_3 = NIN(width, width)
        self.rescale = rescale

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x)
        q, k, v = (part(h).flatten(2) for part in (self.NIN_0, self.NIN_1, self.NIN_2))  # [B, C, HW]
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=2)  # [B, HW queries, HW keys]
        return merge(x, self.NIN_3((v @ weights.transpose(1, 2)).view_as(x)), self.rescale)


class Combine(nn.Module):
    """Mix the pyramid of inputs into the state."""

    def __init__(self, width_in: int, width_out: int, method: str) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(width_in, width_out, 1)
        self.method = method

    def forward(self, pyramid: Tensor, h: Tensor) -> Tensor:
        mixed = self.Conv_0(pyramid)
        return torch.cat([mixed, h], dim=1) if self.method == "cat" else mixed + h


class FIRConv(nn.Module):
    """A 3x3 convolution that doubles (`up`) or halves the resolution, with the filter of StyleGAN2."""

    def __init__(self, width_in: int, width_out: int, up: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, 3, 3) / math.sqrt(9 * width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return F.conv2d(fir_filter(x, 1.0, pad=2), self.weight, self.bias, stride=2)
        wide = F.conv_transpose2d(x, self.weight.flip(2, 3).transpose(0, 1), stride=2)
        return fir_filter(wide, 4.0, pad=1) + self.bias[:, None, None]


class Resample(nn.Module):
    """Doubling or halving the resolution outside a block; the convolution's name shows whether it has a FIR filter."""

    def __init__(self, width_in: int, width_out: int, up: bool, fir: bool, with_conv: bool) -> None:
        super().__init__()
        if with_conv and fir:
            self.Conv2d_0 = FIRConv(width_in, width_out, up)
        elif with_conv:
            self.Conv_0 = nn.Conv2d(width_in, width_out, 3, padding=1 if up else 0, stride=1 if up else 2)
        self.up, self.fir, self.with_conv = up, fir, with_conv

    def forward(self, x: Tensor) -> Tensor:
        if self.with_conv and self.fir:
            return self.Conv2d_0(x)
        if self.with_conv and not self.up:
            return self.Conv_0(F.pad(x, (0, 1, 0, 1)))
        x = upsample(x, self.fir) if self.up else downsample(x, self.fir)
        return self.Conv_0(x) if self.with_conv else x


class ResnetBlock(nn.Module):
    """A residual block of DDPM, or of BigGAN, which may double ("up") or halve ("down") the resolution."""

    def __init__(self, config: NCSNppConfig, width_in: int, width_out: int, resample: str = "") -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(width_in)
        self.Conv_0 = convolution(width_in, width_out)
        self.Dense_0 = nn.Linear(config.time_width, width_out)  # networks without time hold it unused
        self.GroupNorm_1 = group_norm(width_out)
        self.Conv_1 = convolution(width_out, width_out)
        self.shortcut = ""
        if config.biggan and (width_in != width_out or resample):
            self.Conv_2 = nn.Conv2d(width_in, width_out, 1)
            self.shortcut = "Conv_2"
        elif width_in != width_out:
            self.NIN_0 = NIN(width_in, width_out)
            self.shortcut = "NIN_0"
        self.resample, self.fir, self.rescale = resample, config.fir, config.skip_rescale

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample:
            change = upsample if self.resample == "up" else downsample
            h, x = change(h, self.fir), change(x, self.fir)
        h = self.Conv_0(h)
        if temb is not None:
            h = h + self.Dense_0(F.silu(temb))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return merge(getattr(self, self.shortcut)(x) if self.shortcut else x, h, self.rescale)


def build_modules(config: NCSNppConfig) -> Iterator[nn.Module]:
    """The parts in the order of computation: embedding, way down, middle, way up, output."""
    c = config
    widths = [c.width * multiple for multiple in c.width_multiples]
    coarsest = len(widths) - 1
    if c.fourier:
        yield FourierEmbedding(c.width)
    if c.conditional:
        yield nn.Linear(2 * c.width if c.fourier else c.width, c.time_width)
        yield nn.Linear(c.time_width, c.time_width)
    yield convolution(c.channels, c.width)
    skips = [c.width]
    pyramid = c.channels
    for i, width in enumerate(widths):
        for _ in range(c.blocks):
            yield ResnetBlock(c, skips[-1], width)
            if i in c.attention:
                yield Attention(width, c.skip_rescale)
            skips.append(width)
        if i < coarsest:
            yield ResnetBlock(c, width, width, "down") if c.biggan else _resample(c, width, up=False)
            if c.progressive_input == "input_skip":
                yield Combine(c.channels, width, c.combine)
            elif c.progressive_input == "residual":
                yield Resample(pyramid, width, up=False, fir=c.fir, with_conv=True)
                pyramid = width
            skips.append(2 * width if c.progressive_input == "input_skip" and c.combine == "cat" else width)
    before = skips[-1]
    yield ResnetBlock(c, before, before)
    yield Attention(before, c.skip_rescale)
    yield ResnetBlock(c, before, before)
    for i, width in reversed(list(enumerate(widths))):
        for _ in range(c.blocks + 1):
            yield ResnetBlock(c, before + skips.pop(), width)
            before = width
        if i in c.attention:
            yield Attention(width, c.skip_rescale)
        yield from _pyramid_modules(c, width, widths[i + 1] if i < coarsest else None)
        if i > 0:
            yield ResnetBlock(c, width, width, "up") if c.biggan else _resample(c, width, up=True)
    if c.progressive != "output_skip":
        yield group_norm(before)
        yield convolution(before, c.channels)


def _pyramid_modules(config: NCSNppConfig, width: int, coarser: int | None) -> Iterator[nn.Module]:
    """Parts of the progressive output at a level. coarser: width of the level before, None at the coarsest."""
    if config.progressive == "output_skip":
        yield group_norm(width)
        yield convolution(width, config.channels)
    elif config.progressive == "residual" and coarser is None:
        yield group_norm(width)
        yield convolution(width, width)
    elif config.progressive == "residual" and coarser is not None:
        yield Resample(coarser, width, up=True, fir=config.fir, with_conv=True)


def _resample(config: NCSNppConfig, width: int, up: bool) -> Resample:
    return Resample(width, width, up, config.fir, config.resample_with_conv)


class NCSNpp(nn.Module):
    """x [B, C, H, W] in [-1, 1], time [B] -> [B, C, H, W]. score_sde itself scales data in [0, 1] to [-1, 1] first.

    time: sigma where there are Fourier embeddings, else a step, that of `sigmas` where the output is divided by one.
    sigmas: those of training, largest first.
    """

    def __init__(self, config: NCSNppConfig) -> None:
        super().__init__()
        self.config = config
        self.sigmas: Tensor
        self.register_buffer("sigmas", torch.zeros(config.sigmas))
        self.all_modules = nn.ModuleList(build_modules(config))

    def sigma(self, time: Tensor) -> Tensor:
        """The sigma of a time, [B], in the units of the network's own data."""
        return time if self.config.fourier else self.sigmas[time.long()]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        parts = iter(self.all_modules)
        temb = self._embed(time, parts)
        skips = self._down(x, temb, parts)
        h = next(parts)(skips[-1], temb)
        h = next(parts)(h)
        h = next(parts)(h, temb)
        h = self._up(h, skips, temb, parts)
        return h / self.sigma(time)[:, None, None, None] if self.config.scale_by_sigma else h

    def _embed(self, time: Tensor, parts: Iterator[nn.Module]) -> Tensor | None:
        temb = next(parts)(torch.log(time)) if self.config.fourier else time_embedding(time, self.config.width)
        if not self.config.conditional:
            return None
        temb = next(parts)(temb)
        return next(parts)(F.silu(temb))

    def _down(self, x: Tensor, temb: Tensor | None, parts: Iterator[nn.Module]) -> list[Tensor]:
        """The skips: one per block and one per halving."""
        c = self.config
        pyramid = x
        skips = [next(parts)(x)]
        for i in range(len(c.width_multiples)):
            for _ in range(c.blocks):
                h = next(parts)(skips[-1], temb)
                skips.append(next(parts)(h) if i in c.attention else h)
            if i == len(c.width_multiples) - 1:
                break
            h = next(parts)(skips[-1], temb) if c.biggan else next(parts)(skips[-1])
            if c.progressive_input == "input_skip":
                pyramid = downsample(pyramid, c.fir)
                h = next(parts)(pyramid, h)
            elif c.progressive_input == "residual":
                h = pyramid = merge(next(parts)(pyramid), h, c.skip_rescale)
            skips.append(h)
        return skips

    def _up(self, h: Tensor, skips: list[Tensor], temb: Tensor | None, parts: Iterator[nn.Module]) -> Tensor:
        c = self.config
        pyramid = None
        left = list(skips)
        for i in reversed(range(len(c.width_multiples))):
            for _ in range(c.blocks + 1):
                h = next(parts)(torch.cat([h, left.pop()], dim=1), temb)
            if i in c.attention:
                h = next(parts)(h)
            if c.progressive == "output_skip":
                out = self._project(h, parts)
                pyramid = out if pyramid is None else upsample(pyramid, c.fir) + out
            elif c.progressive == "residual" and pyramid is None:
                pyramid = self._project(h, parts)
            elif c.progressive == "residual":
                h = pyramid = merge(next(parts)(pyramid), h, c.skip_rescale)
            if i > 0:
                h = next(parts)(h, temb) if c.biggan else next(parts)(h)
        return pyramid if c.progressive == "output_skip" and pyramid is not None else self._project(h, parts)

    def _project(self, h: Tensor, parts: Iterator[nn.Module]) -> Tensor:
        """Norm, activation, convolution."""
        h = F.silu(next(parts)(h))
        return next(parts)(h)
