"""The U-Net of improved-diffusion (Nichol & Dhariwal 2021) and guided-diffusion ("ADM", Dhariwal & Nichol 2021).

Sub-modules have the names of those files (`input_blocks.4.1.qkv`, `out.2`, ...), so a state dict loads with
strict=True; the config decides the meaning of a place in a list. All arithmetic is float32; the source runs the blocks
of its largest networks in half.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION_ORDERS = ("legacy", "new")
"""First division of the channels of `qkv`: by heads (legacy), or into query, key and value (new)."""


@dataclass(frozen=True)
class ADMConfig:
    """Shape of the network, and the options that shapes do not show.

    attention: levels (0 = finest) with self-attention, besides the middle. heads: number in each self-attention;
    head_channels, if not None, is the number of channels of a head instead. resampling_blocks: residual blocks
    change the resolution, not convolutions. learned_variance: the file's output has twice the channels, of which the
    second half is dropped. classes: 0 for a network without labels.
    """

    channels: int = 3
    size: int = 256
    width: int = 256
    width_multiples: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (3, 4, 5)
    heads: int = 1
    head_channels: int | None = None
    attention_order: str = "legacy"
    scale_shift_norm: bool = True
    resampling_blocks: bool = True
    learned_variance: bool = True
    classes: int = 0

    @property
    def multiple_of(self) -> int:
        """Height and width must be multiples of this: each level but the last halves them."""
        return 2 ** (len(self.width_multiples) - 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(int(self.width * multiple) for multiple in self.width_multiples)

    def heads_of(self, width: int) -> int:
        return self.heads if self.head_channels is None else width // self.head_channels


def time_embedding(time: Tensor, width: int) -> Tensor:
    """Cosines, then sines of time [B] at geometric frequencies 1 .. 1e-4 without the last -> [B, width]."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / half * torch.arange(half, dtype=torch.float32, device=time.device))
    angles = time.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, width)


class ResBlock(nn.Module):
    """resample: nothing, `down` (means of 2 x 2) or `up` (nearest), between norm and convolution and on the skip."""

    def __init__(self, width_in: int, width_out: int, config: ADMConfig, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift_norm = config.scale_shift_norm
        self.in_layers = nn.Sequential(norm(width_in), nn.SiLU(), nn.Conv2d(width_in, width_out, 3, padding=1))
        emb_out = 2 * width_out if config.scale_shift_norm else width_out
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.width, emb_out))
        dropout = nn.Identity()  # the key names count its place
        self.out_layers = nn.Sequential(
            norm(width_out), nn.SiLU(), dropout, nn.Conv2d(width_out, width_out, 3, padding=1)
        )
        self.skip_connection = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        normalise, activate, convolve = self.in_layers
        h = convolve(self.resampled(activate(normalise(x))))
        emb_out = self.emb_layers(emb)[:, :, None, None]
        normalise, activate, _, convolve = self.out_layers
        if self.scale_shift_norm:
            scale, shift = emb_out.chunk(2, dim=1)
            h = normalise(h) * (1 + scale) + shift
        else:
            h = normalise(h + emb_out)
        h = convolve(activate(h))
        return self.skip_connection(self.resampled(x)) + h

    def resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x


class AttentionBlock(nn.Module):
    """Self-attention over all positions; query and key are each scaled by the fourth root of a head's channels."""

    def __init__(self, width: int, config: ADMConfig) -> None:
        super().__init__()
        self.heads = config.heads_of(width)
        self.order = config.attention_order
        self.norm = norm(width)
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        h = x.flatten(2)  # [B, C, HW]
        q, k, v = self.split(self.qkv(self.norm(h)))
        scale = q.shape[2] ** -0.25
        weights = torch.softmax((q * scale).transpose(2, 3) @ (k * scale), dim=3)  # [B, heads, HW queries, HW keys]
        h = h + self.proj_out((v @ weights.transpose(2, 3)).flatten(1, 2))
        return h.view_as(x)

    def split(self, qkv: Tensor) -> tuple[Tensor, ...]:
        """[B, 3 C, HW] -> query, key, value, each [B, heads, C / heads, HW]"""
        if self.order == "new":
            return qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        return qkv.unflatten(1, (self.heads, 3, -1)).unbind(2)


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, _emb: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Layers(nn.ModuleList):
    """Blocks in sequence. Each takes the embedding, but the network's first convolution does not."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, emb)
        return h


class ADM(nn.Module):
    """x [B, C, H, W] in [-1, 1], time [B], and label [B] int64 if there are classes -> the prediction [B, C, H, W].

    time has the source's unit: steps, or steps scaled to 1000 if the source rescales them.
    """

    def __init__(self, config: ADMConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        outputs = config.channels * (2 if config.learned_variance else 1)
        self.time_embed = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.SiLU(), nn.Linear(4 * config.width, 4 * config.width)
        )
        if config.classes:
            self.label_emb = nn.Embedding(config.classes, 4 * config.width)
        self.input_blocks, skips = input_blocks(config)
        self.middle_block = Layers(
            [
                ResBlock(widths[-1], widths[-1], config),
                AttentionBlock(widths[-1], config),
                ResBlock(widths[-1], widths[-1], config),
            ]
        )
        self.output_blocks = output_blocks(config, skips)
        self.out = nn.Sequential(norm(widths[0]), nn.SiLU(), nn.Conv2d(widths[0], outputs, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self.time_embed(time_embedding(time, self.config.width))
        if self.config.classes:
            emb = emb + self.label_emb(label)
        skips = []
        h = x
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h)[:, : self.config.channels]


def input_blocks(config: ADMConfig) -> tuple[nn.ModuleList, list[int]]:
    """The way down, and the channels of each block's output, which the way up takes."""
    widths = config.widths
    rows = [Layers([nn.Conv2d(config.channels, widths[0], 3, padding=1)])]
    skips = [widths[0]]
    for level, width in enumerate(widths):
        for _ in range(config.blocks):
            rows.append(Layers([ResBlock(skips[-1], width, config), *attention(config, level)]))
            skips.append(width)
        if level < len(widths) - 1:
            rows.append(
                Layers([ResBlock(width, width, config, "down") if config.resampling_blocks else Downsample(width)])
            )
            skips.append(width)
    return nn.ModuleList(rows), skips


def output_blocks(config: ADMConfig, skips: Iterable[int]) -> nn.ModuleList:
    """The way up. It takes the skips in reverse; the last block of a level doubles the resolution."""
    left = list(skips)
    rows = nn.ModuleList()
    before = config.widths[-1]
    for level, width in reversed(list(enumerate(config.widths))):
        for index in range(config.blocks + 1):
            row = Layers([ResBlock(before + left.pop(), width, config), *attention(config, level)])
            if level and index == config.blocks:
                row.append(ResBlock(width, width, config, "up") if config.resampling_blocks else Upsample(width))
            rows.append(row)
            before = width
    return rows


def attention(config: ADMConfig, level: int) -> list[AttentionBlock]:
    return [AttentionBlock(config.widths[level], config)] if level in config.attention else []
