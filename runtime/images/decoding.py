"""From a file, a PIL image or an array to an upright 8-bit picture, or to a mask."""

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sdedit.errors import ImageError, reason

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a PIL image, or an array: uint8 [H, W, 3] or [H, W]; a mask may be bool or float in [0, 1] as well."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA")
"""What is decoded: not all that Pillow knows, which starts other programs for some."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".tga")
"""Of the files of a folder that are taken for images."""

REFUSED = {b"ftyp" + brand: "AVIF" for brand in (b"avif", b"avis")} | {
    b"ftyp" + brand: "HEIC"
    for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1")
}
"""Formats that photos often have and that are not decoded, by bytes 4 to 11 of a file."""

MODES = {1: "L", 3: "RGB"}

CONVERTIBLE = ("1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX")


@dataclass(frozen=True)
class Picture:
    """A decoded source. sha256 is of the file, or of the array; name is the file's."""

    image: Image.Image
    sha256: str
    name: str | None

    @property
    def identity(self) -> dict[str, str | None]:
        return {"name": self.name, "sha256": self.sha256}


def open_picture(source: Source, what: str, channels: int = 3) -> Picture:
    """Decode to upright 8-bit RGB (grey for a network of one channel). `what` names the source in an ImageError."""
    picture = _decode(source, what)
    if channels not in MODES:
        raise ImageError(f"{what}: a network of {channels} channels does not take images")
    image = _flatten(picture.image, what).convert(MODES[channels])
    if image.mode != picture.image.mode:
        image.info.pop("icc_profile", None)  # it describes colours of another kind
    return Picture(image, picture.sha256, picture.name)


def open_mask(source: Source, size: tuple[int, int]) -> tuple[np.ndarray, Picture]:
    """A mask as float32 [H, W] in [0, 1], white = 1 = edit; it must have the guide's size (width, height)."""
    if isinstance(source, np.ndarray) and source.dtype != np.uint8:
        values = _check_mask_array(source)
        picture = Picture(Image.fromarray(np.rint(values * 255).astype(np.uint8)), _array_sha256(source), None)
    else:
        picture = _decode(source, "mask")
        grey = _flatten(picture.image, "mask").convert("L")
        values = np.asarray(grey, np.float32) / np.float32(255)
    if picture.image.size != size:
        raise ImageError(f"mask is {times(picture.image.size)} pixels, the guide {times(size)}: they must be equal")
    return values, picture


def _decode(source: Source, what: str) -> Picture:
    if isinstance(source, np.ndarray):
        return Picture(_array_image(source, what), _array_sha256(source), None)
    if isinstance(source, Image.Image):
        image = _load(source, what)
        return Picture(image, _image_sha256(image), None)
    path = Path(source)
    data = _read(path, what)
    if refused := REFUSED.get(data[4:12]):
        raise ImageError(f"{what} {path} is {refused}, which is not decoded: convert it to PNG or JPEG first")
    return Picture(_load(io.BytesIO(data), f"{what} {path}"), hashlib.sha256(data).hexdigest(), path.name)


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"{what} {path} cannot be read: {reason(error)}") from None


def file_sha256(path: Path, what: str) -> str:
    """Of a file's bytes, as `open_picture` has it; raises ImageError."""
    return hashlib.sha256(_read(path, what)).hexdigest()


def load_result(path: Path) -> Image.Image:
    """A PNG of ours with its text chunks, nothing converted; raises ImageError."""
    return _load(io.BytesIO(_read(path, "image")), f"image {path}")


def _load(source: io.BytesIO | Image.Image, what: str) -> Image.Image:
    """All pixels, upright."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow about metadata
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


def _flatten(image: Image.Image, what: str) -> Image.Image:
    """An image without alpha and of 8 bits; nothing visible is dropped on the way."""
    if image.mode.startswith("I"):
        return _from_sixteen_bits(image, what)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        if lowest != 255:
            raise ImageError(f"{what} has transparent pixels: flatten it first")
        return image.convert("RGB")
    if image.mode not in CONVERTIBLE:
        raise ImageError(f"{what} has pixel mode {image.mode}; accepted are grey, palette, RGB and CMYK")
    return image


def _from_sixteen_bits(image: Image.Image, what: str) -> Image.Image:
    """Grey of 0..65535 becomes grey of 0..255."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{what} has grey values outside 0..65535")
    if (values == image.info.get("transparency", -1)).any():
        raise ImageError(f"{what} has transparent pixels: flatten it first")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))


def _array_image(array: np.ndarray, what: str) -> Image.Image:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise ImageError(f"{what} is an array of {array.dtype} {list(array.shape)}; accepted are uint8 [H, W(, 3)]")
    return Image.fromarray(np.ascontiguousarray(array))


def _check_mask_array(array: np.ndarray) -> np.ndarray:
    fits = array.ndim == 2 and array.dtype.kind in "bf" and array.size > 0
    if not fits or not ((array >= 0) & (array <= 1)).all():
        raise ImageError(
            f"mask is an array of {array.dtype} {list(array.shape)}; accepted: uint8, bool or float in [0, 1]; [H, W]"
        )
    return array.astype(np.float32)


def _array_sha256(array: np.ndarray) -> str:
    """Of its dtype, shape and values."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _image_sha256(image: Image.Image) -> str:
    """Of all that its pixels mean."""
    header = f"{image.mode}{image.size}{image.getpalette()}".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
