"""LPIPS, version 0.1 (Zhang et al. 2018), with the names of torchvision's AlexNet or VGG16 and of the authors' heads.

The trunk's weights are `alexnet-owt-7be5be79.pth` or `vgg16-397923af.pth` of torchvision; the heads are
`lpips/weights/v0.1/alex.pth` or `vgg.pth` in the package lpips.
"""

import torch
from torch import nn

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The authors subtract the first from images in [-1, 1], and divide by the second."""

VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Channels of VGG16's convolutions; 0: a maximum of 2x2."""


def alexnet() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    )


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for outputs in VGG:
        layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.ReLU()] if outputs else [nn.MaxPool2d(2, 2)]
        channels = outputs or channels
    return nn.Sequential(*layers)


TAPS = {"alexnet-lpips": (alexnet, (1, 4, 7, 9, 11)), "vgg-lpips": (vgg, (3, 8, 15, 22, 29))}
"""Name -> its trunk, and the layers whose outputs are compared."""


class Lpips(nn.Module):
    """Two images, float32 [B, 3, H, W] in [-1, 1] -> their distance [B]."""

    def __init__(self, name: str) -> None:
        super().__init__()
        trunk, self.taps = TAPS[name]
        self.features = trunk()
        widths = [layer.out_channels for layer in self.features if isinstance(layer, nn.Conv2d)]
        convolutions = [index for index, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        for number, tap in enumerate(self.taps):
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(widths[convolutions.index(tap - 1)], 1, 1, bias=False))
            self.add_module(f"lin{number}", nn.ModuleDict({"model": head}))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    def outputs(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The taps' outputs, each pixel's channels of length 1."""
        found = []
        x = (x - self.get_buffer("shift")) / self.get_buffer("scale")
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        distance = torch.zeros(a.shape[0])
        for number, (p, q) in enumerate(zip(self.outputs(a), self.outputs(b), strict=True)):
            head = self.get_submodule(f"lin{number}.model")
            distance = distance + head((p - q).square()).mean((1, 2, 3))
        return distance
