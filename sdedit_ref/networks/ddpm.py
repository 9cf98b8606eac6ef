"""The U-Net of DDPM (Ho et al. 2020), with the parameter names of the official SDEdit and DDIM checkpoints.

Sub-modules are named as those files name them (`down.0.block.1.conv1`, `mid.attn_1.q`, ...), so a state dict loads with
strict=True. Two options are ours: `patch`, which works on squares of pixels at once (pixel-unshuffle in, shuffle out),
and `pattern`, which keeps such a network from leaving a pattern of the patches' size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class DDPMConfig:
    """Shape of the network. attention: the levels (0 = finest) with self-attention. pattern: see Pattern."""

    channels: int = 3
    size: int = 256
    width: int = 128
    width_multiples: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (4,)
    patch: int = 1
    pattern: bool = False

    @property
    def multiple_of(self) -> int:
        """Height and width must be multiples of this: each level but the last halves them."""
        return self.patch * 2 ** (len(self.width_multiples) - 1)


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Sines, then cosines of time [B] at geometric frequencies 1 .. 1e-4 -> [B, width]."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half, dtype=torch.float32, device=time.device))
    angles = time.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width, eps=1e-6)


class TimeEmbedding(nn.Module):
    """time [B] -> [B, 4 width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.dense = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)])

    def forward(self, time: Tensor) -> Tensor:
        return self.dense[1](F.silu(self.dense[0](time_embedding(time, self.width))))


class ResnetBlock(nn.Module):
    def __init__(self, width_in: int, width_out: int, time_width: int) -> None:
        super().__init__()
        self.norm1 = norm(width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, 3, padding=1)
        self.temb_proj = nn.Linear(time_width, width_out)
        self.norm2 = norm(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.temb_proj(F.silu(temb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class Attention(nn.Module):
    """Self-attention of one head over all positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # [B, C, HW]
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(q.shape[1]), dim=2)  # [B, HW queries, HW keys]
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Blocks at one resolution, each followed by attention if the level has it."""

    def __init__(self, widths: list[tuple[int, int]], time_width: int, attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResnetBlock(a, b, time_width) for a, b in widths)
        self.attn = nn.ModuleList(Attention(b) for _, b in widths if attention)

    def run(self, index: int, x: Tensor, temb: Tensor) -> Tensor:
        h = self.block[index](x, temb)
        return self.attn[index](h) if len(self.attn) else h


class DownLevel(Level):
    """One level of the way down: a skip after each block and, except at the last level, one after halving."""

    def __init__(self, widths: list[tuple[int, int]], time_width: int, attention: bool, last: bool) -> None:
        super().__init__(widths, time_width, attention)
        self.downsample = None if last else Downsample(widths[-1][1])

    def forward(self, skips: list[Tensor], temb: Tensor) -> list[Tensor]:
        for j in range(len(self.block)):
            skips = [*skips, self.run(j, skips[-1], temb)]
        return skips if self.downsample is None else [*skips, self.downsample(skips[-1])]


class Middle(nn.Module):
    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(width, width, time_width)
        self.attn_1 = Attention(width)
        self.block_2 = ResnetBlock(width, width, time_width)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, temb)), temb)


class UpLevel(Level):
    """One level of the way up: it takes the skips in reverse, and doubles the resolution except at the finest."""

    def __init__(self, widths: list[tuple[int, int]], time_width: int, attention: bool, finest: bool) -> None:
        super().__init__(widths, time_width, attention)
        self.upsample = None if finest else Upsample(widths[-1][1])

    def forward(self, x: Tensor, skips: list[Tensor], temb: Tensor) -> Tensor:
        for j, skip in enumerate(skips):
            x = self.run(j, torch.cat([x, skip], dim=1), temb)
        return x if self.upsample is None else self.upsample(x)


class Pattern(nn.Module):
    """Predicts the pattern of the patches: the mean over all patches at each place in them, less the colour's mean.

    Group norms subtract the means of channels, so the layers hardly see x's pattern and cannot tell that it is noise:
    of 64x64 values of deviation 1 it has the deviation 1/32, which an edit would keep as a grid of 2x2 pixels. So the
    layers' own pattern is replaced by x's, times a gain that depends on the time. The gain is not learned (see
    sdedit_ref.training.pattern), and no weight learns from the pattern.
    """

    def __init__(self, patch: int, time_width: int) -> None:
        super().__init__()
        self.patch = patch
        self.gain = nn.Linear(time_width, 1).requires_grad_(False)

    def forward(self, prediction: Tensor, x: Tensor, temb: Tensor) -> Tensor:
        """prediction and x in patches [B, C patch^2, h, w], temb [B, time_width] -> the prediction with its pattern."""
        means = (self.gain(F.silu(temb.detach()))[:, :, None, None] * x - prediction).mean((2, 3), keepdim=True)
        squares = F.pixel_shuffle(means, self.patch)
        pattern = squares - F.avg_pool2d(squares, self.patch)
        return prediction + F.pixel_unshuffle(pattern, self.patch)


class DDPM(nn.Module):
    """x [B, C, H, W] in [-1, 1], time [B] -> the prediction, [B, C, H, W]."""

    def __init__(self, config: DDPMConfig) -> None:
        super().__init__()
        self.config = config
        time_width = 4 * config.width
        widths = [config.width * multiple for multiple in config.width_multiples]
        coarsest = len(widths) - 1
        channels = config.channels * config.patch**2

        self.temb = TimeEmbedding(config.width)
        self.conv_in = nn.Conv2d(channels, config.width, 3, padding=1)

        self.down = nn.ModuleList()
        skips = [config.width]
        for i, width in enumerate(widths):
            pairs = [(skips[-1], width)] + [(width, width)] * (config.blocks - 1)
            self.down.append(DownLevel(pairs, time_width, i in config.attention, i == coarsest))
            skips += [width] * (config.blocks + (i < coarsest))

        self.mid = Middle(widths[-1], time_width)

        self.up = nn.ModuleList()
        before = widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            inputs = [before] + [width] * config.blocks
            pairs = [(width_in + skips.pop(), width) for width_in in inputs]
            self.up.insert(0, UpLevel(pairs, time_width, i in config.attention, i == 0))
            before = width

        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.pattern = Pattern(config.patch, time_width) if config.pattern else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        temb = self.temb(time)
        patches = F.pixel_unshuffle(x, self.config.patch)
        skips = [self.conv_in(patches)]
        for level in self.down:
            skips = level(skips, temb)
        h = self.mid(skips[-1], temb)
        for level in reversed(self.up):
            count = self.config.blocks + 1
            skips, used = skips[:-count], skips[-count:]
            h = level(h, used[::-1], temb)
        out = self.conv_out(F.silu(self.norm_out(h)))
        if self.pattern is not None:
            out = self.pattern(out, patches, temb)
        return F.pixel_shuffle(out, self.config.patch)
