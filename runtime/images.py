"""Between files and the network: decoding, the part of a photo that is edited, and putting the result back."""

import hashlib
import io
import math
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps, UnidentifiedImageError

from sdedit.errors import ImageError, reason

Source = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a PIL image, or an array: uint8 [H, W, 3] or [H, W]; a mask may be bool or float in [0, 1] as well."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA")
"""What is decoded: not all that Pillow knows, which starts other programs for some."""

TOLERATED = 12
"""Of 255: what most pixels of two saves of one photo as JPEG differ by at most; files without loss are exact."""
GROW = 4
"""Pixels that a mask made of two photos is grown by: a stroke's soft edge, and room to blend in."""

FITS = ("crop", "pad", "stretch")
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


@dataclass(frozen=True)
class Canvas:
    """What is edited: `box` (left, top, right, bottom) of the photo at the network's size, and where it changes.

    guide: float32 [C, H, W] in [-1, 1]. mask: float32 [H, W] in [0, 1]. change: bool [h, w] over the photo, or None
    where the result is the whole image.
    """

    photo: Image.Image
    box: tuple[int, int, int, int]
    guide: np.ndarray
    mask: np.ndarray
    change: np.ndarray | None


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
        raise ImageError(f"mask is {_times(picture.image.size)} pixels, the guide {_times(size)}: they must be equal")
    return values, picture


def difference_mask(guide: Image.Image, base: Image.Image) -> np.ndarray:
    """Where `guide` was painted over `base`, grown by GROW pixels: float32 [H, W], 0 or 1. Raises ImageError.

    A pixel is painted where a channel differs by more than TOLERATED, so that a JPEG's noise is no stroke.
    """
    if guide.size != base.size:
        raise ImageError(f"base is {_times(base.size)} pixels, the guide {_times(guide.size)}: they must be equal")
    differences = np.asarray(ImageChops.difference(guide, base))
    painted = differences.reshape(*differences.shape[:2], -1).max(axis=2) > TOLERATED
    if not painted.any():
        raise ImageError(f"base and guide differ nowhere by more than {TOLERATED} of 255: nothing was painted")
    grown = Image.fromarray(painted.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * GROW + 1))
    return np.asarray(grown, np.float32)


def check_placement(fit: str, context: float) -> None:
    """Raise ImageError unless both are accepted, whichever of them an edit uses."""
    if fit not in FITS:
        raise ImageError(f"fit {fit!r} is not one of {', '.join(FITS)}")
    if not 0 <= context < math.inf:
        raise ImageError(f"context {context} is not at least 0")


def whole_canvas(photo: Image.Image, shape: tuple[int, int, int], fit: str) -> Canvas:
    """The photo brought to the network's size by `fit`, all of it editable."""
    _, height, width = shape
    size = (width, height)
    if photo.size != size:
        if fit == "crop":
            photo = ImageOps.fit(photo, size, Image.Resampling.LANCZOS)
        elif fit == "pad":
            photo = _pad(photo, size)
        else:
            photo = photo.resize(size, Image.Resampling.LANCZOS)
    return Canvas(photo, (0, 0, *size), to_state(photo), np.ones((height, width), np.float32), None)


def masked_canvas(
    photo: Image.Image, mask: np.ndarray, shape: tuple[int, int, int], context: float, threshold: float
) -> Canvas:
    """The box around what the mask edits, grown by `context` of its size on each side, to the network's aspect.

    It is never smaller than the network's image, so that no small mask is edited enlarged, unless the photo is; where
    the photo is too small for the aspect, the box is stretched. threshold: the mask's values from which on a pixel is
    edited at all. Raises ImageError where none is.
    """
    change = mask >= np.float32(threshold)
    if not change.any():
        raise ImageError(
            f"mask edits nothing: its brightest value is {mask.max():.3g}, with white 1, and t0 and steps edit from "
            f"{threshold:.3g} on"
        )
    _, height, width = shape
    box = _context_box(change, (height, width), context)
    left, top, right, bottom = box
    part = photo.crop(box)
    small = mask[top:bottom, left:right]
    if part.size != (width, height):
        part = part.resize((width, height), Image.Resampling.LANCZOS)
        small = _reduce_mask(small, (height, width))
    return Canvas(photo, box, to_state(part), np.ascontiguousarray(small), change)


def _reduce_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The maximum over each cell, or the nearest value: no stroke is too thin for it, and no new greys appear."""
    for axis, count in enumerate(size):
        starts = np.arange(count) * mask.shape[axis] // count
        mask = np.maximum.reduceat(mask, starts, axis=axis)
    return mask


def paste(canvas: Canvas, state: np.ndarray, exact: bool) -> Image.Image:
    """The photo with the edited box put back: where the mask is, or all of the box if the keep rule is not `exact`."""
    edited = to_image(state)
    if canvas.change is None:
        edited.info["icc_profile"] = canvas.photo.info.get("icc_profile")
        return edited
    left, top, right, bottom = canvas.box
    if edited.size != (right - left, bottom - top):
        edited = edited.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    out = canvas.photo.copy()
    where = Image.fromarray(canvas.change[top:bottom, left:right]) if exact else None
    out.paste(edited, (left, top), where)
    return out


def to_state(image: Image.Image) -> np.ndarray:
    """8-bit values u become u / 127.5 - 1: float32 [C, H, W]."""
    values = np.atleast_3d(np.asarray(image, np.float32)) / np.float32(127.5) - np.float32(1)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def to_image(state: np.ndarray) -> Image.Image:
    """The inverse of `to_state`: rint((x + 1) 127.5), clamped to 0..255."""
    values = np.clip(np.rint((state + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0).copy())


def check_output(path: Path, inputs: Sequence[Path] = ()) -> None:
    """Raise ImageError unless a PNG can be written at `path` and is none of `inputs`; called before it is computed."""
    if path.suffix.lower() != ".png":
        raise ImageError(f"output {path} does not end in .png: only PNG keeps every byte and the recipe")
    try:
        if path.is_dir():
            raise ImageError(f"output {path} is a folder")
        if not path.parent.is_dir():
            raise ImageError(f"output {path}: there is no folder {path.parent}")
        if not os.access(path.parent, os.W_OK):
            raise ImageError(f"output {path}: the folder {path.parent} is not writable")
        if path.exists() and any(source.exists() and path.samefile(source) for source in inputs):
            raise ImageError(f"output {path} would overwrite an input: name another")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None


def save_png(image: Image.Image, path: Path, texts: Mapping[str, str]) -> None:
    """Write the image with these text chunks, so that `path` is either complete or untouched."""
    from PIL.PngImagePlugin import PngInfo  # a seventh of what importing the runtime would cost

    check_output(path)
    info = PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    temporary = path.parent / f".sdedit-{secrets.token_hex(8)}"
    try:
        with temporary.open("xb") as file:
            image.save(file, "PNG", pnginfo=info, icc_profile=image.info.get("icc_profile"))
        temporary.replace(path)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"output {path} cannot be written: {reason(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


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
        raise ImageError(f"{what} is {_times(image.size)} pixels: there is nothing to see")
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


def _pad(photo: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The whole photo in the middle of a black image; even the thinnest keeps a pixel, which ImageOps.pad drops."""
    scale = min(size[0] / photo.width, size[1] / photo.height)
    small = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    out = Image.new(photo.mode, size)
    place = (round((size[0] - small[0]) / 2), round((size[1] - small[1]) / 2))
    out.paste(photo.resize(small, Image.Resampling.LANCZOS), place)
    return out


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


def _context_box(change: np.ndarray, model: tuple[int, int], context: float) -> tuple[int, int, int, int]:
    spans = [np.flatnonzero(change.any(axis=axis)) for axis in (1, 0)]  # rows, columns
    ends = [(int(span[0]), int(span[-1]) + 1) for span in spans]
    wanted = [max((high - low) * (1 + 2 * context), size) for (low, high), size in zip(ends, model, strict=True)]
    scale = max(want / size for want, size in zip(wanted, model, strict=True))
    sides = []
    for (low, high), size, limit in zip(ends, model, change.shape, strict=True):
        length = math.ceil(min(size * scale, limit))  # in this order: scale may be infinite
        start = min(max((low + high - length) // 2, 0), limit - length)
        sides.append((start, start + length))
    (top, bottom), (left, right) = sides
    return left, top, right, bottom


def _array_sha256(array: np.ndarray) -> str:
    """Of its dtype, shape and values."""
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def _image_sha256(image: Image.Image) -> str:
    """Of all that its pixels mean."""
    header = f"{image.mode}{image.size}{image.getpalette()}".encode()
    return hashlib.sha256(header + image.tobytes()).hexdigest()


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
