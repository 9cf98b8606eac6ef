"""Batches of crops that are cut where the network is trained: the pictures lie there as 8-bit tensors.

crops.py cuts one crop after another on the CPU, which a GPU would wait for. Here the CPU draws only places.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdedit.errors import ImageError

from .crops import ATTEMPTS, Box, Crops, _around, _inside, decoded


@dataclass(frozen=True)
class Picture:
    """A picture at one scale. values: uint8 [3, H, W] on the device. within, without: see Crops, at that scale.

    sums: float64 [2, H + 1, W + 1], sums over the channels and over all pixels above and left, of the values and of
    their squares; None where even crops are as good as others.
    """

    values: Tensor
    within: Box
    without: Box | None
    sums: np.ndarray | None


class Batches:
    """Cuts batches of crops. A batch is a function of the seed and its number. All pictures must fit into memory."""

    def __init__(self, crops: Crops, device: str) -> None:
        """crops: says which crops; its size is the default of `cut`."""
        self.crops = crops
        self.device = device
        factors, chances = zip(*crops.scales, strict=True)
        self.pictures = [self._load(index, scale) for index in range(len(crops.paths)) for scale in factors]
        self.chances = np.tile(np.divide(chances, sum(chances)), len(crops.paths)) / len(crops.paths)

    def _load(self, index: int, scale: float) -> Picture:
        crops, values = self.crops, decoded(self.crops.paths[index], scale)
        height, width = values.shape[:2]
        return Picture(
            torch.from_numpy(values.transpose(2, 0, 1).copy()).to(self.device),
            (0, 0, width, height) if crops.within is None else _inside(crops.within, scale),
            None if crops.without is None else _around(crops.without, scale),
            summed(values) if crops.flat < 1 else None,
        )

    def cut(self, number: int, count: int, size: int | None = None) -> Tensor:
        """Batch `number`: float32 [count, 3, size, size] in [-1, 1], on the device."""
        size = self.crops.size if size is None else size
        random = np.random.default_rng((self.crops.seed, number))
        fitting = [picture_fits(picture, size) for picture in self.pictures]
        if not any(fitting):
            raise ImageError(f"{self.crops.paths[0]}: no crop of {size}x{size} pixels fits")
        chances = self.chances * fitting
        counts = random.multinomial(count, chances / chances.sum())
        parts = []
        for picture, wanted in zip(self.pictures, counts, strict=True):
            if wanted:
                places = torch.from_numpy(self._places(random, picture, int(wanted), size)).to(self.device)
                parts.append(cut_at(picture.values, places, size))
        crops = turned(torch.cat(parts), self.crops.turns)
        return crops.float() / 127.5 - 1

    def _places(self, random: np.random.Generator, picture: Picture, count: int, size: int) -> np.ndarray:
        """Left and top of crops that are allowed: int64 [count, 2]."""
        left, top, right, bottom = picture.within
        found = np.zeros((0, 2), np.int64)
        for _ in range(ATTEMPTS):
            x = random.integers(left, right - size + 1, 4 * count)
            y = random.integers(top, bottom - size + 1, 4 * count)
            good = np.ones(len(x), bool)
            if picture.without is not None:
                a, b, c, d = picture.without
                good &= ~((x < c) & (a < x + size) & (y < d) & (b < y + size))
            if picture.sums is not None:
                even = deviations(picture.sums, x, y, size) < self.crops.flat_below
                good &= ~even | (random.random(len(x)) < self.crops.flat)
            found = np.concatenate([found, np.stack([x, y], axis=1)[good]])
            if len(found) >= count:
                return found[:count]
        raise ImageError(f"{self.crops.paths[0]}: no crop of {size}x{size} pixels found in {ATTEMPTS} attempts")


def picture_fits(picture: Picture, size: int) -> bool:
    """Whether a crop of that size fits into the part of the picture that is used."""
    left, top, right, bottom = picture.within
    return right - left >= size and bottom - top >= size


def summed(values: np.ndarray) -> np.ndarray:
    """See Picture.sums. values: uint8 [H, W, 3]."""
    height, width = values.shape[:2]
    sums = np.zeros((2, height + 1, width + 1))
    for table, power in zip(sums, (1, 2), strict=True):
        each = (values.astype(np.float64) ** power).sum(axis=2)
        np.cumsum(np.cumsum(each, axis=0), axis=1, out=table[1:, 1:])
    return sums


def deviations(sums: np.ndarray, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    """Standard deviation over pixels and channels of the crops at left x [N] and top y [N]: float64 [N]."""
    right, bottom = x + size, y + size
    total = sums[:, bottom, right] - sums[:, y, right] - sums[:, bottom, x] + sums[:, y, x]
    mean, square = total / (3 * size * size)
    found: np.ndarray = np.sqrt(np.maximum(square - mean**2, 0))
    return found


def cut_at(picture: Tensor, places: Tensor, size: int) -> Tensor:
    """uint8 [N, 3, size, size] of a picture [3, H, W], at left and top int64 [N, 2]."""
    offsets = torch.arange(size, device=picture.device)
    columns, rows = (places[:, axis, None] + offsets for axis in (0, 1))
    return picture[:, rows[:, :, None], columns[:, None, :]].transpose(0, 1)


def turned(crops: Tensor, turns: bool) -> Tensor:
    """The crops [N, C, S, S], every second one mirrored; turns: and each turned by quarters, in turn."""
    symmetries = [functools.partial(torch.rot90, k=k, dims=(2, 3)) for k in range(4 if turns else 1)]
    out = torch.empty_like(crops)
    for index, turn in enumerate(symmetries):
        for mirrored in (False, True):
            where = slice(2 * index + mirrored, None, 2 * len(symmetries))
            out[where] = turn(crops[where].flip(3) if mirrored else crops[where])
    return out
