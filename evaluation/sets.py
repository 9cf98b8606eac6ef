"""Distances between two sets of images, by their features: KID, FID, precision and recall.

Features are arrays [N, D] of any float dtype, a row an image, from one network for both sets. Sums are in float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sdedit.errors import ImageError

BLOCK = 100
"""Most images of a block of KID. The customary 1000 needs as many images; the mean does not depend on it."""

NEIGHBOURS = 3
"""The k of precision and recall, as in their paper."""

ROWS = 512
"""Rows of a distance matrix that are held at once."""


@dataclass(frozen=True)
class Kid:
    """mean and spread (standard deviation) of the blocks' estimates of the squared MMD. blocks: their number."""

    mean: float
    spread: float
    blocks: int


def kid(a: np.ndarray, b: np.ndarray, blocks: int = 100, block: int = BLOCK, seed: int = 0) -> Kid:
    """Kernel Inception distance: Binkowski et al. 2018, section 3.2.

    Each block draws `block` rows of each set without replacement, and is estimated without bias. So values below 0 are
    possible, and equal distributions have mean 0. Raises ImageError where a set has fewer than two rows.
    """
    check_features(a, b)
    size = min(block, len(a), len(b))
    if size < 2:
        raise ImageError(f"KID needs at least 2 images in each set, not {len(a)} and {len(b)}")
    generator = np.random.default_rng(seed)
    estimates = [
        squared_mmd(a[generator.choice(len(a), size, False)], b[generator.choice(len(b), size, False)])
        for _ in range(blocks)
    ]
    return Kid(float(np.mean(estimates)), float(np.std(estimates)), blocks)


def squared_mmd(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased estimate of the squared MMD with the kernel (x.y / D + 1)^3: Gretton et al. 2012, equation 3."""
    m, n = len(a), len(b)
    kaa, kbb, kab = kernel(a, a), kernel(b, b), kernel(a, b)
    within = (kaa.sum() - np.trace(kaa)) / (m * (m - 1)) + (kbb.sum() - np.trace(kbb)) / (n * (n - 1))
    return float(within - 2 * kab.mean())


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    values = a.astype(np.float64) @ b.astype(np.float64).T / a.shape[1] + 1
    cubes: np.ndarray = values * values * values  # NumPy's power is many times slower
    return cubes


def fid(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians with the sets' means and covariances: Heusel et al. 2017, equation 6.

    |m - n|^2 + tr(A + B - 2 (A B)^0.5). The trace of the root is the sum of the singular values of A^0.5 B^0.5, which
    are those of X Y^T for centred rows X and Y: no root of a singular matrix is taken. It is biased upwards for
    few images, so values compare only at equal counts. Raises ImageError where a set has fewer than two rows.
    """
    check_features(a, b)
    if min(len(a), len(b)) < 2:
        raise ImageError(f"FID needs at least 2 images in each set, not {len(a)} and {len(b)}")
    (x, mean_x), (y, mean_y) = map(centred, (a, b))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(np.square(mean_x - mean_y).sum() + np.square(x).sum() + np.square(y).sum() - 2 * root)


def centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows X with X^T X the unbiased covariance, and the mean."""
    values = features.astype(np.float64)
    mean = values.mean(0)
    return (values - mean) / np.sqrt(len(values) - 1), mean


def precision_recall(results: np.ndarray, reals: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Share of results on the reals' manifold, and of reals on the results': Kynkaanniemi et al. 2019, equation 1.

    A point is on a set's manifold if it is no farther from one of the set's points than that one's k-th neighbour.
    Raises ImageError where a set has no k neighbours.
    """
    check_features(results, reals)
    if min(len(results), len(reals)) <= neighbours:
        raise ImageError(
            f"precision and recall need more than {neighbours} images in each set, not {len(results)} and {len(reals)}"
        )
    return covered(results, reals, neighbours), covered(reals, results, neighbours)


def covered(points: np.ndarray, manifold: np.ndarray, neighbours: int) -> float:
    """The share of points on the manifold."""
    # the nearest "neighbour" of a point in its own set is itself
    radii = np.concatenate([np.partition(d, neighbours, 1)[:, neighbours] for d in distances(manifold, manifold)])
    inside = [np.any(d <= radii, axis=1) for d in distances(points, manifold)]
    return float(np.concatenate(inside).mean())


def distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Squared distances of the rows of a to those of b, some rows of a at a time."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    squares = np.square(y).sum(1)
    for first in range(0, len(x), ROWS):
        rows = x[first : first + ROWS]
        found = np.maximum(np.square(rows).sum(1)[:, None] + squares - 2 * rows @ y.T, 0)
        if a is b:
            found[np.arange(len(rows)), first + np.arange(len(rows))] = 0
        yield found


def check_features(a: np.ndarray, b: np.ndarray) -> None:
    """Raise ImageError for values that are not finite, or rows of different lengths."""
    if a.shape[1] != b.shape[1]:
        raise ImageError(f"the sets' features have {a.shape[1]} and {b.shape[1]} values: take one network for both")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ImageError("a feature is NaN or infinite: no distance can be computed")
