"""Distances between sets of images, and the pattern that networks in patches leave.

Images are float32 [N, C, H, W] in [-1, 1] throughout.
"""

import numpy as np

from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy

NEIGHBOURHOOD = 7
"""Side, in pixels, of the squares whose statistics sliced_wasserstein compares."""

STRIDE = 3
"""Pixels from one of these squares to the next."""


def l2(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over the images of the Euclidean distance to their partners, with pixels counted in [0, 1]."""
    return float(np.linalg.norm((a - b).reshape(len(a), -1), axis=1).mean()) / 2


def root_mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """Root of the mean squared difference of the pixels, counted in [-1, 1]."""
    return float(np.sqrt(np.square(a - b).mean()))


def grid(images: np.ndarray) -> float:
    """Mean difference between the four pixels of 2x2 squares: a root mean square, in units of 1/255.

    It is near 0 for real images, as they have no such pattern; networks in patches of 2x2 pixels may leave one.
    """
    n, c, h, w = images.shape
    squares = images[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2)
    detail = squares - squares.mean((3, 5), keepdims=True)
    return float(np.sqrt(np.square(detail.mean((0, 2, 4))).mean())) * 127.5


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, projections: int = 256) -> list[float]:
    """Distance between two sets of images of one shape, for each level of a Laplacian pyramid, finest first.

    Karras et al. 2018, section 5: every 7x7 neighbourhood is a point, normalised per channel by the statistics of its
    own set. The distance is the mean over random directions of the 1-D Wasserstein-1 distance of the projected points.
    Equal sets have distance 0. Two samples of the same images differ a little: compare with that. Raises ValueError
    for sets of different shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"the sets have different shapes: {list(a.shape)} and {list(b.shape)}")
    size = a.shape[1] * NEIGHBOURHOOD**2
    directions = np.stack([normal_numpy(0, number, 0, 0, KIND_BEGIN, size) for number in range(projections)])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    distances = []
    for levels in zip(laplacian_pyramid(a), laplacian_pyramid(b), strict=True):
        p, q = map(neighbourhoods, levels)
        # one direction after another: all projections at once would take `projections` times the memory of one
        gaps = [np.abs(np.sort(p @ d) - np.sort(q @ d)).mean(dtype=np.float64) for d in directions]
        distances.append(float(np.mean(gaps)))
    return distances


def laplacian_pyramid(images: np.ndarray) -> list[np.ndarray]:
    """The detail of each octave, finest first, and last the remaining small images.

    Halving stops before a side would be below 8 pixels, and at odd sides.
    """
    levels = []
    while min(images.shape[2:]) >= 16 and images.shape[2] % 2 == images.shape[3] % 2 == 0:
        n, c, h, w = images.shape
        small = images.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
        levels.append(images - double(double(small, 2), 3))
        images = small
    return [*levels, images]


def double(images: np.ndarray, axis: int) -> np.ndarray:
    """Twice as many pixels along an axis, interpolated linearly between pixel centres and constant outside them."""
    size = images.shape[axis]
    near = np.repeat(images, 2, axis)
    positions = np.arange(2 * size)
    others = np.clip(positions // 2 + np.where(positions % 2, 1, -1), 0, size - 1)
    return np.float32(0.75) * near + np.float32(0.25) * np.take(images, others, axis)


def neighbourhoods(images: np.ndarray) -> np.ndarray:
    """Squares of pixels as points [M, C NEIGHBOURHOOD^2], each channel with mean 0 and deviation 1 over the set."""
    mean = images.mean((0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = images.std((0, 2, 3), ddof=1, keepdims=True, dtype=np.float64)
    normalised = ((images - mean) / np.maximum(deviation, 1e-6)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(normalised, (NEIGHBOURHOOD, NEIGHBOURHOOD), (2, 3))
    points = windows[:, :, ::STRIDE, ::STRIDE].transpose(0, 2, 3, 1, 4, 5)
    return points.reshape(-1, images.shape[1] * NEIGHBOURHOOD**2)
