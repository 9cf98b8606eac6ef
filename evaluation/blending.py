"""Laplacian and Poisson blending of composites."""

import numpy as np

from sdedit.errors import ImageError, SdeditError, install_hint, raise_interrupt

from .metrics import double

KERNEL = np.array([1, 4, 6, 4, 1]) / 16
"""Weights of the pyramid's filter: Burt and Adelson's with a = 3/8."""


def laplacian_blend(pasted: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The pasted part in the photo, each octave blended over its own width: Burt and Adelson 1983, section 3.

    pasted, photo: float32 [C, H, W] in [-1, 1]; mask: [H, W], 1 where `pasted` is wanted. Returns float32 [C, H, W],
    clamped to [-1, 1]. Each level is L = m L_pasted + (1 - m) L_photo with the mask's own pyramid m; the sum of the
    levels is the result. Halving stops at odd sides, and before a side would be below 8 pixels.
    """
    a, b, m = (np.asarray(x, np.float64) for x in (pasted, photo, mask[None]))
    levels = []
    while min(a.shape[1:]) >= 16 and a.shape[1] % 2 == a.shape[2] % 2 == 0:
        small_a, small_b, small_m = (halved(x) for x in (a, b, m))
        levels.append(m * (a - doubled(small_a)) + (1 - m) * (b - doubled(small_b)))
        a, b, m = small_a, small_b, small_m
    blend = m * a + (1 - m) * b
    for level in reversed(levels):
        blend = doubled(blend) + level
    return np.clip(blend, -1, 1).astype(np.float32)


def halved(image: np.ndarray) -> np.ndarray:
    """Every second pixel of [C, H, W] after the filter; the image goes on as its border."""
    for axis in (1, 2):
        padding = [(2, 2) if axis == other else (0, 0) for other in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(image, padding, "edge"), len(KERNEL), axis)
        image = (windows @ KERNEL).take(range(0, image.shape[axis], 2), axis)
    return image


def doubled(image: np.ndarray) -> np.ndarray:
    """Twice as many pixels along both sides of [C, H, W]."""
    found: np.ndarray = double(double(image[None], 2), 3)[0]
    return found


def poisson_blend(pasted: np.ndarray, photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The pasted part's differences between neighbours, continued from the photo around it: Perez et al. 2003.

    Arguments and result are those of laplacian_blend; the mask edits where it is above 0. Each pixel p of the mask
    solves equation 7: |N| f_p - sum of f_q over neighbours q in the mask = sum of the photo over the other neighbours
    + sum of g_p - g_q over those in the mask, g being `pasted` and N the up to four neighbours in the picture. The
    paper's last sum has the other neighbours too; a composite holds the photo there, and would be its own solution.
    Outside the mask the photo is unchanged. Raises ImageError for a mask of the whole picture, which leaves the level
    open, and SdeditError without scipy.
    """
    try:
        from scipy.sparse import coo_array, diags_array
        from scipy.sparse.linalg import spsolve
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"Poisson blending needs scipy: {install_hint('evaluate')}") from None
    inside = mask > 0
    if inside.all():
        raise ImageError("Poisson blending needs a pixel that the mask keeps: it edits the whole picture")
    g, known = (np.moveaxis(np.asarray(image, np.float64), 0, -1) for image in (pasted, photo))
    ys, xs = np.nonzero(inside)
    numbers = np.cumsum(inside).reshape(inside.shape) - 1
    neighbours, right = np.zeros(len(ys)), np.zeros((len(ys), g.shape[2]))
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for down, along in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        y, x = ys + down, xs + along
        own = np.flatnonzero((y >= 0) & (y < inside.shape[0]) & (x >= 0) & (x < inside.shape[1]))
        y, x = y[own], x[own]
        neighbours[own] += 1
        unknown = inside[y, x]
        right[own[~unknown]] += known[y[~unknown], x[~unknown]]
        own, y, x = own[unknown], y[unknown], x[unknown]
        right[own] += g[ys[own], xs[own]] - g[y, x]
        pairs.append((own, numbers[y, x]))
    places = tuple(np.concatenate(found) for found in zip(*pairs, strict=True))
    shape = (len(ys), len(ys))
    matrix = diags_array(neighbours) - coo_array((np.ones(len(places[0])), places), shape=shape)
    blend = known.copy()
    blend[ys, xs] = spsolve(matrix.tocsc(), right).reshape(right.shape) if len(ys) else 0
    return np.clip(np.moveaxis(blend, -1, 0), -1, 1).astype(np.float32)


METHODS = {"laplacian": laplacian_blend, "poisson": poisson_blend}
"""Name -> the function that blends."""
