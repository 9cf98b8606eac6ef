"""Measures of a result against its guide, image by image, and on one side of a mask.

Images are float32 [N, C, H, W] in [-1, 1]; each function returns float64 [N].
"""

import numpy as np

WINDOW_SIGMA, WINDOW_RADIUS = 1.5, 5
"""SSIM's Gaussian window, in pixels."""


def l2_each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distance with pixels counted in [0, 1]: the paper's L2 (Meng et al. 2022, section 5)."""
    difference = (a.astype(np.float64) - b).reshape(len(a), -1)
    distances: np.ndarray = np.linalg.norm(difference, axis=1) / 2
    return distances


def rms_each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference, with pixels counted in [-1, 1]."""
    roots: np.ndarray = np.sqrt(np.square(a.astype(np.float64) - b).mean((1, 2, 3)))
    return roots


def psnr_each(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Peak signal to noise ratio in dB over the pixels `where` [N, H, W] is true; inf for equal pixels.

    It is NaN for an image in which no pixel is.
    """
    squares = np.square((a.astype(np.float64) - b) / 2).mean(1)
    chosen = np.ones(squares.shape, bool) if where is None else where
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios: np.ndarray = -10 * np.log10((squares * chosen).sum((1, 2)) / chosen.sum((1, 2)))
    return ratios


def ssim_each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Structural similarity: Wang et al. 2004, equation 13, per channel, with their Gaussian window; mean of the map.

    As the authors' code: K = 0.01 and 0.03, no sample covariance, and windows that leave the image do not count.
    Sides of at least 11 pixels are needed.
    """
    x, y = (a.astype(np.float64) + 1) / 2, (b.astype(np.float64) + 1) / 2
    mx, my = window_mean(x), window_mean(y)
    vx, vy = window_mean(x * x) - mx * mx, window_mean(y * y) - my * my
    covariance = window_mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    means: np.ndarray = similarity.mean((1, 2, 3))
    return means


def window_mean(images: np.ndarray) -> np.ndarray:
    """Weighted mean of each 11x11 window that lies in the image."""
    offsets = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / WINDOW_SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (2, 3):
        windows = np.lib.stride_tricks.sliding_window_view(images, len(weights), axis)
        images = windows @ weights
    return images


def outside(results: np.ndarray, guides: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The results with the guides' pixels where the masks [N, H, W] edit: what differs, differs outside the mask.

    So a kept pixel's neighbours in a window or a network's field are the guide's, and exact keeping gives exactly 0,
    or a similarity of exactly 1.
    """
    return np.where(masks[:, None], guides, results)


def inside(results: np.ndarray, guides: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The results with the guides' pixels where the masks [N, H, W] keep."""
    return np.where(masks[:, None], results, guides)
