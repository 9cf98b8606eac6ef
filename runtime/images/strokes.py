"""A stroke painting from a photo, as the paper simulates user input (Meng et al. 2022, appendix D.2); without torch.

The authors' own simulator was never published. What re-implementations agree on is a median filter of 23 pixels where
the image has 256, and an adaptive palette of 6 colours. The palette here is median cut's, refined by k-means: median
cut alone mixes a small sea with the land beside it into a grey that is in neither.
"""

from PIL import Image, ImageFilter

from sdedit.errors import ImageError

MEDIAN, COLOURS = 23, 6
SIZE = 256
"""Pixels of the shorter side at which `median` is given, and at most the size at which the filter is run."""


def stroke_painting(photo: Image.Image, median: int = MEDIAN, colours: int = COLOURS) -> Image.Image:
    """Paint an RGB photo with a brush of `median` pixels (where its shorter side has 256) in `colours` flat colours.

    The result is RGB of the photo's size. A smaller photo is filtered as it is, with the nearest odd size; a larger one
    is reduced first, as the cost of a median grows with the fourth power of the size, and its painting enlarged before
    each pixel takes the nearest colour of its palette. median: odd, 1 (none) to 255. colours: 2 to 256, fewer where the
    photo has fewer. Raises ImageError.
    """
    if not 1 <= median < SIZE or median % 2 == 0:
        raise ImageError(f"median {median} is not an odd number in 1..{SIZE - 1}")
    if not 2 <= colours <= 256:
        raise ImageError(f"colours {colours} is not in 2..256")
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
    return flat.convert("RGB")


def brush(median: int, shorter: int) -> int:
    """The odd number nearest to `median` scaled from SIZE to an image whose shorter side this is."""
    return 2 * round((median * shorter / SIZE - 1) / 2) + 1 if median * shorter > SIZE else 1
