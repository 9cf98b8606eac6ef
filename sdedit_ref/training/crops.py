"""Training data: random crops of pictures at several scales. Each crop is a function of the seed and its number.

So a run that was killed goes on with the same crops, and nothing is shuffled.
"""

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from sdedit.errors import ImageError, reason

from ..storage import why_unreadable

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM")
"""Formats of pictures to train on, by PIL's names."""

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
CACHED = 64
"""Number of pictures kept decoded, each at one scale."""
ATTEMPTS = 1000
"""Number of attempts to draw a crop before the error that none fits."""

HELD_OUT = 64
"""Number of crops for the held-out loss."""

Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels of a picture at full size."""


@dataclass(frozen=True)
class Crops:
    """Item i: float32 [3, size, size] in [-1, 1].

    scales: factors by which a picture is reduced before the crop, with their probabilities. within, without: a crop
    lies inside this box, or shares no pixel with it. flat: share that is used of the even, nearly grey crops, whose
    standard deviation over pixels and channels is below `flat_below` (in units of 1/255). turns: quarter turns as well
    as mirror images, for pictures that have no upside.
    """

    paths: Sequence[Path]
    size: int
    seed: int
    scales: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    within: Box | None = None
    without: Box | None = None
    flat: float = 1.0
    flat_below: float = 14.0
    turns: bool = False

    def __getitem__(self, index: int) -> np.ndarray:
        random = np.random.default_rng((self.seed, index))
        for _ in range(ATTEMPTS):
            crop = self._draw(random)
            if crop is None or (self.flat < 1 and crop.std() < self.flat_below and random.random() >= self.flat):
                continue
            if random.random() < 0.5:
                crop = crop[:, ::-1]
            if self.turns:
                crop = np.rot90(crop, int(random.integers(4)))
            return crop.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        raise ImageError(f"{self.paths[0]}: no crop of {self.size}x{self.size} pixels found in {ATTEMPTS} attempts")

    def _draw(self, random: np.random.Generator) -> np.ndarray | None:
        """uint8 [size, size, 3], or None if the drawn place is not allowed."""
        path = self.paths[int(random.integers(len(self.paths)))]
        factors, chances = zip(*self.scales, strict=True)
        scale = float(random.choice(factors, p=np.divide(chances, sum(chances))))
        picture = decoded(path, scale)
        height, width = picture.shape[:2]
        left, top, right, bottom = (0, 0, width, height) if self.within is None else _inside(self.within, scale)
        if right - left < self.size or bottom - top < self.size:
            return None
        x = int(random.integers(left, right - self.size + 1))
        y = int(random.integers(top, bottom - self.size + 1))
        if self.without is not None and _overlap((x, y, x + self.size, y + self.size), _around(self.without, scale)):
            return None
        return picture[y : y + self.size, x : x + self.size]


@functools.lru_cache(CACHED)
def decoded(path: Path, scale: float) -> np.ndarray:
    """The picture reduced by `scale` (means of the covered pixels): uint8 [H, W, 3]. Raises ImageError."""
    image = _load(path)
    if scale != 1:
        size = (max(1, int(image.width / scale)), max(1, int(image.height / scale)))
        image = image.resize(size, Image.Resampling.BOX, box=(0, 0, size[0] * scale, size[1] * scale))
    return np.asarray(image)


def find_pictures(source: Path, size: int) -> list[Path]:
    """The picture `source`, or all pictures in the folder `source` and its sub-folders, sorted.

    Raises ImageError if there is none, or if one is smaller than a crop of `size` pixels.
    """
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    else:
        paths = [source]
        if problem := why_unreadable(source):
            raise ImageError(f"{source} {problem}")
    if not paths:
        raise ImageError(f"{source} has no images; looked for {', '.join(SUFFIXES)}")
    sizes = [(path, _size(path)) for path in paths]
    small = [(path, found) for path, found in sizes if min(found) < size]
    if small:
        path, (width, height) = small[0]
        raise ImageError(
            f"{path} is {width}x{height} pixels, smaller than the crop of {size}x{size}"
            + (f"; so are {len(small) - 1} other images" if len(small) > 1 else "")
        )
    return paths


def split(
    paths: list[Path],
    hold_out: str | None,
    size: int,
    seed: int,
    scales: Sequence[tuple[float, float]],
    flat: float,
    turns: bool,
) -> tuple[Crops, Crops]:
    """Crops to train on, and held-out crops.

    hold_out: LEFT,TOP,RIGHT,BOTTOM of one picture, or N for every N-th of several. If None, the second are other crops
    of the same pictures, which do not show over-fitting. Raises ImageError.
    """
    every = Crops(paths, size, seed, scales, flat=flat, turns=turns)
    others = replace(every, seed=seed + 1, flat=1.0)
    if hold_out is None:
        return every, others
    numbers = parse_numbers(hold_out)
    if len(numbers) == 4 and len(paths) == 1:
        left, top, right, bottom = numbers
        width, height = _size(paths[0])
        inside = min(left, top) >= 0 and right <= width and bottom <= height
        if not inside or right - left < size or bottom - top < size:
            raise ImageError(
                f"hold-out {hold_out} is not a box of at least {size}x{size} in {paths[0]}, {width}x{height}"
            )
        box = (left, top, right, bottom)
        return replace(every, without=box), replace(others, within=box)
    if len(numbers) == 1 and 2 <= numbers[0] <= len(paths):
        (every_nth,) = numbers
        kept = [path for index, path in enumerate(paths) if index % every_nth]
        return replace(every, paths=kept), replace(others, paths=paths[::every_nth])
    raise ImageError(
        f"hold-out {hold_out!r} fits neither one picture (LEFT,TOP,RIGHT,BOTTOM) nor several (N in 2..{len(paths)}); "
        f"there are {len(paths)}"
    )


def parse_numbers(text: str) -> tuple[int, ...]:
    """ "1,2,2" -> (1, 2, 2); "" -> (). Raises ImageError."""
    try:
        return tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise ImageError(f"{text!r} is not a list of whole numbers like 1,2,2") from None


def parse_scales(text: str) -> list[tuple[float, float]]:
    """ "1:0.7,2:0.3" -> [(1.0, 0.7), (2.0, 0.3)]; a chance that is left out is 1. Raises ImageError."""
    scales = _parse_chances(text)
    if not all(scale >= 1 for scale, _ in scales) or not scales:
        raise ImageError(
            f"scales {text!r} is not a list of SCALE:CHANCE with SCALE >= 1 and CHANCE > 0, like 1:0.7,2:0.3"
        )
    return scales


def parse_sides(text: str, multiple_of: int) -> list[tuple[int, float]]:
    """ "64:0.5,128:0.5" -> [(64, 0.5), (128, 0.5)]; a chance that is left out is 1. Raises ImageError."""
    sides = _parse_chances(text)
    if not all(side >= multiple_of and side % multiple_of == 0 for side, _ in sides) or not sides:
        raise ImageError(
            f"sides {text!r} is not a list of SIDE:CHANCE with multiples of {multiple_of} and CHANCE > 0, like "
            f"{multiple_of}:0.7,{2 * multiple_of}:0.3"
        )
    return [(int(side), chance) for side, chance in sides]


def _parse_chances(text: str) -> list[tuple[float, float]]:
    """ "1:0.7,2" -> [(1.0, 0.7), (2.0, 1.0)]; empty if it is no such list of finite numbers with chances above 0."""
    try:
        pairs = [part.partition(":") for part in text.split(",")]
        found = [(float(value), float(chance or 1)) for value, _, chance in pairs]
    except ValueError:
        return []
    return found if all(math.isfinite(value) and 0 < chance < math.inf for value, chance in found) else []


def _open(path: Path) -> Image.Image:
    """Open with the format's own class: the user's own training data may be larger than Image.open allows a process."""
    try:
        if path.exists() and not path.is_file():
            raise ImageError(f"{path} is not a regular file")
        with path.open("rb") as file:
            start = file.read(16)
        Image.init()
        for name in FORMATS:
            make, accepts = Image.OPEN[name]
            if accepts is None or accepts(start) is True:
                return make(str(path), "")  # type: ignore[arg-type] # given a path, it opens and closes the file
    except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
        pass
    except (OSError, ValueError) as error:
        raise ImageError(f"{path} cannot be read: {reason(error)}") from None
    raise ImageError(f"{path} is not an image")


def _size(path: Path) -> tuple[int, int]:
    """Width and height of the upright picture, by the camera's orientation note. Raises ImageError."""
    image = _open(path)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} is damaged: {reason(error)}") from None
    width, height = image.size
    return (height, width) if turned else (width, height)


def _load(path: Path) -> Image.Image:
    """The picture, upright and RGB. Raises ImageError if that would not be the picture that its owner sees."""
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        raise ImageError(f"{path} has more than 8 bits a channel: save it with 8")
    try:
        if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise ImageError(f"{path} has transparent pixels: flatten it first")
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} is damaged: {reason(error)}") from None


def _inside(box: Box, scale: float) -> Box:
    """The whole pixels inside the box, in the picture reduced by `scale`."""
    left, top, right, bottom = (edge / scale for edge in box)
    return math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)


def _around(box: Box, scale: float) -> Box:
    """All pixels that the box touches, in the picture reduced by `scale`."""
    left, top, right, bottom = (edge / scale for edge in box)
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
