"""The Inception network of FID, with the names of `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid.

It differs from torchvision's Inception v3 in four places: averages do not count padding (the blocks A, C and E), the
last block takes a maximum for an average, there are 1008 classes, and the input's size and range are TensorFlow's.
"""

import torch
import torch.nn.functional as F
from torch import nn

SIDE = 299


class Convolution(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int | tuple[int, int], stride: int = 1, same: bool = True):
        super().__init__()
        height, width = (size, size) if isinstance(size, int) else size
        padding = (height // 2, width // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)))


def chain(block: nn.Module, x: torch.Tensor, *names: str) -> torch.Tensor:
    for name in names:
        x = getattr(block, name)(x)
    return x


def average(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class A(nn.Module):
    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Convolution(inputs, 48, 1), Convolution(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inputs, 64, 1), Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        five = chain(self, x, "branch5x5_1", "branch5x5_2")
        three = chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(average(x))], 1)


class B(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, 2, same=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inputs, 64, 1), Convolution(64, 96, 3)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2, same=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")
        return torch.cat([self.branch3x3(x), three, F.max_pool2d(x, 3, 2)], 1)


class C(nn.Module):
    def __init__(self, inputs: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Convolution(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Convolution(inputs, inner, 1), Convolution(inner, inner, row)
        self.branch7x7_3 = Convolution(inner, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Convolution(inputs, inner, 1), Convolution(inner, inner, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Convolution(inner, inner, row), Convolution(inner, inner, column)
        self.branch7x7dbl_5 = Convolution(inner, 192, row)
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seven = chain(self, x, "branch7x7_1", "branch7x7_2", "branch7x7_3")
        double = chain(self, x, *(f"branch7x7dbl_{number}" for number in range(1, 6)))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(average(x))], 1)


class D(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Convolution(inputs, 192, 1), Convolution(192, 320, 3, 2, same=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = Convolution(inputs, 192, 1), Convolution(192, 192, (1, 7))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1))
        self.branch7x7x3_4 = Convolution(192, 192, 3, 2, same=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three = chain(self, x, "branch3x3_1", "branch3x3_2")
        seven = chain(self, x, *(f"branch7x7x3_{number}" for number in range(1, 5)))
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)


class E(nn.Module):
    """maximum: whether the pooling branch takes a maximum: FID's last block."""

    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Convolution(inputs, 448, 1), Convolution(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Convolution(384, 384, (1, 3)), Convolution(384, 384, (3, 1))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        three, double = self.branch3x3_1(x), chain(self, x, "branch3x3dbl_1", "branch3x3dbl_2")
        three = torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1)
        double = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else average(x)
        return torch.cat([self.branch1x1(x), three, double, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """float32 [B, 3, 299, 299], (u - 128) / 128 of 8-bit values u -> the features before the classes, [B, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, same=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = A(192, 32), A(256, 64), A(288, 64)
        self.Mixed_6a, self.Mixed_6b = B(288), C(768, 128)
        self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = C(768, 160), C(768, 160), C(768, 192)
        self.Mixed_7a, self.Mixed_7b, self.Mixed_7c = D(768), E(1280, False), E(2048, True)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(chain(self, x, "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"), 3, 2)
        x = F.max_pool2d(chain(self, x, "Conv2d_3b_1x1", "Conv2d_4a_3x3"), 3, 2)
        x = chain(self, x, "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d")
        return chain(self, x, "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c").mean((2, 3))
