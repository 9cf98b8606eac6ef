"""Where an edit takes place: the size at which the network works, and the box of the photo that it works on."""

from collections.abc import Callable
from math import inf, prod
from typing import Any

import numpy as np

from sdedit.errors import ImageError, PlanError

from ..bundle import ImageSpec
from ..images import (
    Canvas,
    Source,
    alpha_mask,
    difference_mask,
    feathered,
    masked_canvas,
    multiples,
    open_mask,
    open_picture,
    own_scale_canvas,
    own_size_canvas,
    whole_canvas,
)
from ..images.canvas import Size
from ..settings import Settings


def place(
    guide: Source,
    mask: Source | None,
    base: Source | None,
    settings: Settings,
    image: ImageSpec,
    threshold: float,
    check_room: Callable[[Size], None],
) -> tuple[Canvas, dict[str, Any]]:
    """The canvas of an edit, and the part of the recipe that names its sources. Raises ImageError and PlanError.

    image: the sizes that the network takes. threshold: the smallest mask value that edits a pixel. check_room: called
    with width and height before a picture of that size is made; raises an error if the machine has no room for it.
    """

    def check(size: Size) -> None:
        check_size(settings, image, size)
        check_room(size)

    check_areas(settings, image)
    by_alpha = settings.mask_from == "alpha"
    if base is not None and (mask is not None or by_alpha):
        other = "mask and base" if mask is not None else "base and mask_from alpha"
        raise ImageError(f"{other} are both given: one of them says where the guide may change")
    picture = open_picture(guide, "guide", image.channels, keep_alpha=by_alpha and mask is None)
    sources: dict[str, Any] = {"guide": picture.identity, "mask": None, "base": None}
    if mask is None and base is None and not by_alpha:
        size = wanted_size(str(settings.size or "native"), image, picture.image.size)
        check(size)
        if settings.size == "guide":
            return own_size_canvas(picture.image, image.multiple_of), sources
        return whole_canvas(picture.image, size, settings.fit), sources
    if mask is not None:
        values, origin = open_mask(mask, picture.image.size, settings.mask_from)
        sources["mask"] = origin.identity
    elif base is None:
        title = " ".join(filter(None, ("guide", picture.name)))
        values = np.asarray(alpha_mask(picture.alpha, title), np.float32) / np.float32(255)
    else:
        origin = open_picture(base, "base", image.channels)
        values = difference_mask(picture.image, origin.image)
        sources["base"] = origin.identity
    values = feathered(values, settings.feather, threshold)
    native = (image.width, image.height)
    if settings.size == "guide" or (settings.size is None and (image.free or settings.tile)):
        most = inf if settings.tile else largest_area(settings, image)
        canvas = own_scale_canvas(picture.image, values, native, image.multiple_of, most, settings.context, threshold)
        check(canvas.part.size)
        return canvas, sources
    size = wanted_size(str(settings.size or "native"), image, picture.image.size)
    check(size)
    return masked_canvas(picture.image, values, size, settings.context, threshold), sources


def wanted_size(text: str, image: ImageSpec, guide: Size) -> Size:
    """Width and height of the option `size`. Raises PlanError if they are no sides that the network takes."""
    if text == "native":
        return image.width, image.height
    if text == "guide":
        return multiples(guide, image.multiple_of)
    sides = [int(side) for side in text.split("x")]
    if any(side % image.multiple_of for side in sides):
        raise PlanError(f"size {text}: sides must be multiples of {image.multiple_of}")
    if len(sides) == 2:
        return sides[1], sides[0]
    (longer,) = sides
    shorter = longer * min(guide) / max(guide) / image.multiple_of
    shorter = max(round(shorter), 1) * image.multiple_of
    return (longer, shorter) if guide[0] >= guide[1] else (shorter, longer)


def largest_area(settings: Settings, image: ImageSpec) -> int:
    """The most pixels that are edited at once."""
    return image.max_pixels if settings.max_pixels is None else settings.max_pixels


def check_areas(settings: Settings, image: ImageSpec) -> None:
    """Raise PlanError for a max_pixels or a tile that the network does not take."""
    native = f"{image.height}x{image.width}"
    if not image.free:
        if settings.max_pixels not in (None, image.max_pixels):
            raise PlanError(f"max_pixels {settings.max_pixels}: the network takes {native} pixels only")
        if settings.tile is not None and not settings.tile == image.height == image.width:
            raise PlanError(f"tile {settings.tile}: the network takes {native} pixels only")
        return
    least = image.multiple_of**2
    if settings.max_pixels is not None and settings.max_pixels < least:
        raise PlanError(
            f"max_pixels {settings.max_pixels} is not at least {least}: sides are multiples of {image.multiple_of}"
        )
    if settings.tile is None:
        return
    if settings.tile % image.multiple_of:
        raise PlanError(f"tile {settings.tile} is not a multiple of {image.multiple_of}")
    if settings.tile**2 > largest_area(settings, image):
        raise PlanError(
            f"tile {settings.tile} has {settings.tile**2} pixels, more than max_pixels {largest_area(settings, image)}"
        )


def check_size(settings: Settings, image: ImageSpec, size: Size) -> None:
    """Raise PlanError for a size that the network does not take, or that has more pixels than may be edited at once."""
    width, height = size
    if settings.tile is not None:
        return
    if not image.free and (height, width) != (image.height, image.width):
        raise PlanError(f"size {height}x{width}: the network takes {image.height}x{image.width} only")
    most = max(largest_area(settings, image), image.height * image.width)
    if prod(size) > most:
        raise PlanError(
            f"size {height}x{width} has {prod(size)} pixels, more than the {most} that are edited at once: "
            f"tile edits it piece by piece, a larger max_pixels at once"
        )
