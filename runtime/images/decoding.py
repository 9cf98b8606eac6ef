"""Decoding a file, a PIL image or an array to an upright 8-bit picture."""

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdedit.errors import ImageError, reason

from .colour import flatten
from .sources import Source, array_sha256, image_sha256, read_bytes

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA")
"""Formats that are decoded. Pillow knows more, but starts other programs for some of them."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".tga")
"""File names with these endings are taken for images when a folder is edited."""

REFUSED = {b"ftyp" + brand: "AVIF" for brand in (b"avif", b"avis")} | {
    b"ftyp" + brand: "HEIC"
    for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1")
}
"""Common photo formats that are not decoded, by bytes 4 to 11 of the file."""

MODES = {1: "L", 3: "RGB"}
"""PIL's mode of a picture, by its number of channels."""


@dataclass(frozen=True)
class Picture:
    """A decoded source.

    image: upright, 8 bits a channel. sha256: hash of the file's bytes, or of the array's or PIL image's values. name:
    the file's name without folders, or None.
    """

    image: Image.Image
    sha256: str
    name: str | None

    @property
    def identity(self) -> dict[str, str | None]:
        """The recipe's entry for this source."""
        return {"name": self.name, "sha256": self.sha256}


def open_picture(source: Source, what: str, channels: int = 3) -> Picture:
    """Decode to upright 8-bit RGB, or to grey if `channels` is 1. `what` names the source in an ImageError."""
    picture = decode(source, what)
    if channels not in MODES:
        raise ImageError(f"{what}: a network of {channels} channels does not take images")
    image = flatten(picture.image, what).convert(MODES[channels])
    if image.mode != picture.image.mode:
        image.info.pop("icc_profile", None)  # the profile describes colours of another kind
    return Picture(image, picture.sha256, picture.name)


def load_result(path: Path) -> Image.Image:
    """A PNG that sdedit wrote, with its text chunks and unconverted pixels. Raises ImageError."""
    return _load(io.BytesIO(read_bytes(path, "image")), f"image {path}")


def decode(source: Source, what: str) -> Picture:
    """Decode a source to an upright PIL image of whatever mode it has. Raises ImageError."""
    if isinstance(source, np.ndarray):
        return Picture(_array_image(source, what), array_sha256(source), None)
    if isinstance(source, Image.Image):
        image = _load(source, what)
        return Picture(image, image_sha256(image), None)
    path = Path(source)
    data = read_bytes(path, what)
    if refused := REFUSED.get(data[4:12]):
        raise ImageError(f"{what} {path} is {refused}, which is not decoded: convert it to PNG or JPEG first")
    return Picture(_load(io.BytesIO(data), f"{what} {path}"), hashlib.sha256(data).hexdigest(), path.name)


def _load(source: io.BytesIO | Image.Image, what: str) -> Image.Image:
    """Read all pixels and turn them upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
            image.load()
            image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise ImageError(f"{what} is not an image of format {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{what} is larger than {Image.MAX_IMAGE_PIXELS} pixels") from None
    except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
        raise ImageError(f"{what} is damaged: {reason(error)}") from None
    if 0 in image.size:
        raise ImageError(f"{what} is {times(image.size)} pixels: there is nothing to see")
    return image


def _array_image(array: np.ndarray, what: str) -> Image.Image:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ImageError(f"{what} is an array of {array.dtype} {list(array.shape)}; accepted are uint8 [H, W(, 3)]")
    return Image.fromarray(np.ascontiguousarray(array))


def times(size: tuple[int, int]) -> str:
    """A size (width, height) as a message says it: 640x480."""
    return f"{size[0]}x{size[1]}"
