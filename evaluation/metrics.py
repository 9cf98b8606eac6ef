"""How far sets of images are from each other, and the pattern that patches leave."""

from torch import Tensor
from torch.nn import functional as F

from sdedit_ref.training.quality import noise

NEIGHBOURHOOD = 7
"""Pixels of the squares whose statistics sliced_wasserstein compares."""


def grid(images: Tensor) -> float:
    """How much the four pixels of 2x2 squares differ on average over images [N, C, H, W], of 255; root mean square.

    Real images have no such pattern: 0 up to their number. Networks in patches of 2x2 pixels may leave one.
    """
    even = images[:, :, : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2]
    detail = even - F.interpolate(F.avg_pool2d(even, 2), scale_factor=2.0)
    squares = F.pixel_unshuffle(detail, 2)  # [N, 4 C, H / 2, W / 2]
    return float(squares.mean((0, 2, 3)).square().mean().sqrt()) * 127.5


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256) -> list[float]:
    """Distance of two sets of images [N, C, H, W], level by level of a Laplacian pyramid, finest first.

    Karras et al. 2018, section 5: every 7x7 neighbourhood is a point, normalised per channel by the statistics of its
    own set; the mean over random directions of the 1-D Wasserstein-1 distance of the projected points. Both sets need
    the same shape. 0 for equal sets; sets of one kind differ by their sampling, so compare with that.
    """
    if a.shape != b.shape:
        raise ValueError(f"the sets have different shapes: {list(a.shape)} and {list(b.shape)}")
    directions = noise((projections, a.shape[1] * NEIGHBOURHOOD**2))
    directions /= directions.norm(dim=1, keepdim=True)
    distances = []
    for levels in zip(laplacian_pyramid(a), laplacian_pyramid(b), strict=True):
        p, q = ((neighbourhoods(level) @ directions.T).sort(0).values for level in levels)
        distances.append(float((p - q).abs().mean()))
    return distances


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """What each octave adds, finest first, and the remaining mean of at least 8 pixels a side, or of an odd number."""
    levels = []
    while min(images.shape[2:]) >= 16 and images.shape[2] % 2 == images.shape[3] % 2 == 0:
        small = F.avg_pool2d(images, 2)
        levels.append(images - F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False))
        images = small
    return [*levels, images]


def neighbourhoods(images: Tensor) -> Tensor:
    """Squares of pixels as points [M, C NEIGHBOURHOOD^2], each channel with mean 0 and deviation 1 over the set."""
    mean, deviation = images.mean((0, 2, 3), keepdim=True), images.std((0, 2, 3), keepdim=True)
    points = F.unfold((images - mean) / deviation.clamp(min=1e-6), NEIGHBOURHOOD, stride=3)
    return points.transpose(1, 2).reshape(-1, points.shape[1])
