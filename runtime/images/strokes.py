"""A stroke painting from a photo, as the paper simulates user input (Meng et al. 2022, appendix D.2); without torch.

The authors never published their simulator. Re-implementations agree on a median filter of 23 pixels for an image of
256 pixels, and an adaptive palette of 6 colours. The palette here is found by median cut and refined by k-means: median
cut alone mixes a small sea with the land beside it into a grey that is in neither.
"""

from PIL import Image, ImageFilter

from sdedit.errors import ImageError

from .colour import copy_colour
from .sources import memory_for

MEDIAN, COLOURS = 23, 6
SIZE = 256
"""Shorter side, in pixels, of the image that `median` is meant for. The filter runs on no larger image."""


def stroke_painting(photo: Image.Image, median: int = MEDIAN, colours: int = COLOURS) -> Image.Image:
    """Paint an RGB photo with a brush of `median` pixels in `colours` flat colours: RGB of the photo's size.

    median: for a shorter side of 256 pixels, scaled for others; odd, 1 (no filter) to 255. colours: 2 to 256; a photo
    with fewer keeps fewer. A photo above 256 pixels is reduced before the filter, whose cost grows with the fourth
    power of the size. Its painting is enlarged, and each pixel takes the nearest colour of the palette. Raises
    ImageError.
    """
    if not 1 <= median < SIZE or median % 2 == 0:
        raise ImageError(f"median {median} is not an odd number in 1..{SIZE - 1}")
    if not 2 <= colours <= 256:
        raise ImageError(f"colours {colours} is not in 2..256")
    with memory_for(f"a painting of {photo.width}x{photo.height} pixels", 9 * photo.width * photo.height):
        return _paint(photo, median, colours)


def _paint(photo: Image.Image, median: int, colours: int) -> Image.Image:
    shorter = min(photo.size)
    painted = photo
    if shorter > SIZE:
        reduced = (round(photo.width * SIZE / shorter), round(photo.height * SIZE / shorter))
        painted = photo.resize(reduced, Image.Resampling.BOX)
    painted = painted.filter(ImageFilter.MedianFilter(brush(median, min(painted.size))))
    flat = painted.quantize(colours, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    if painted.size != photo.size:
        painted = painted.resize(photo.size, Image.Resampling.BICUBIC)
        flat = painted.quantize(palette=flat, dither=Image.Dither.NONE)
    result = flat.convert("RGB")
    copy_colour(photo, result)
    return result


def brush(median: int, shorter: int) -> int:
    """The brush in pixels of an image: `median` scaled from SIZE to its `shorter` side, to the nearest odd number."""
    return 2 * round((median * shorter / SIZE - 1) / 2) + 1 if median * shorter > SIZE else 1
