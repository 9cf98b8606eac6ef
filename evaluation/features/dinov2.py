"""DINOv2 (Oquab et al. 2023), ViT-L/14 without registers, with the names of its authors' `dinov2_vitl14_pretrain.pth`.

Stein et al. 2023 found distances of its features to agree with people better than those of Inception's. As in their
code, pictures are brought to 224x224 pixels, and the features are the class token's.
"""

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 224
PATCH = 14
TRAINED = 37
"""Patches along a side of the pictures that the positions were trained for."""

OFFSET = 0.1
"""The authors scale positions to this much more than the patches along a side, against rounding."""


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(2, 3) / (width // self.heads) ** 0.5, 3)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gamma * x


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width, heads), Mlp(width)
        self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """float32 [B, 3, H, W] -> the patches row by row, [B, patches, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """float32 [B, 3, 224, 224], ImageNet's mean subtracted and divided by its deviation -> the features [B, width]."""

    def __init__(self, width: int = 1024, depth: int = 24, heads: int = 16) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED**2, width))
        self.patch_embed = Patches(width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.register_buffer("resize", bicubic(TRAINED, SIDE // PATCH), persistent=False)

    def positions(self) -> torch.Tensor:
        """The trained positions of the patches at this size, [1, patches, width]: a bicubic resize is linear."""
        trained = self.pos_embed[:, 1:].view(1, TRAINED, TRAINED, -1)
        resize = self.get_buffer("resize")
        return torch.einsum("yh,xw,bhwc->byxc", resize, resize, trained).flatten(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x) + self.positions()
        first = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        out: torch.Tensor = self.norm(self.blocks(torch.cat([first, x], 1)))[:, 0]
        return out


def bicubic(size: int, wanted: int) -> torch.Tensor:
    """The matrix [wanted, size] of torch's bicubic resize, scaled by (wanted + OFFSET) / size as the authors do."""
    columns = torch.eye(size).view(1, size, size, 1)
    scale = (wanted + OFFSET) / size
    return F.interpolate(columns, scale_factor=(scale, 1.0), mode="bicubic").view(size, wanted).T.contiguous()
