"""Decoding a source to an upright 8-bit picture."""

import hashlib
import importlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdedit.errors import ImageError, git_lfs_hint, reason

from . import gif, jpeg, png, tiff, webp
from .colour import add_alpha, convert_colours, split_alpha, to_mode
from .side_data import COLOUR_KEYS, XMP_ORIENTATION, Container, DamagedError, UnsupportedError, exif_orientation, warn
from .sources import Source, array_sha256, image_sha256, memory_for, read_bytes, read_source

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "TGA")
"""Formats that are decoded. Pillow knows more, but starts other programs for some of them."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".tga")
"""File names with these endings are taken for images when a folder is edited."""

REFUSED = {b"ftyp" + brand: "AVIF" for brand in (b"avif", b"avis")} | {
    b"ftyp" + brand: "HEIC"
    for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1")
}
"""Common photo formats that are not decoded, by bytes 4 to 11 of the file."""

MAX_PIXELS = 89_478_485
"""Largest picture that is decoded: 256 MiB at 3 bytes a pixel, as in Pillow, whose limit a host may change."""

MODES = {1: "L", 3: "RGB"}
"""PIL's mode of a picture, by its number of channels."""

SIGNATURES: dict[str, bytes | tuple[bytes, ...]] = {
    "PNG": png.SIGNATURE,
    "JPEG": jpeg.SIGNATURE,
    "TIFF": tiff.SIGNATURES,
    "GIF": gif.SIGNATURES,
    "BMP": b"BM",
}

READERS: dict[str, Callable[[bytes], Container]] = {
    "PNG": png.read_png,
    "JPEG": jpeg.read_jpeg,
    "WEBP": webp.read_webp,
    "TIFF": tiff.read_tiff,
    "GIF": gif.read_gif,
}

SPELLINGS = {"WEBP": "WebP"}
"""How Pillow spells a format in the names of its classes, where it does not write it like Png."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by EXIF orientation."""

_LOCKS: dict[tuple[int, int], threading.Lock] = {}
"""By process and number: one of 64 guards the reading of a PIL image. PIL reads pixels late, and not thread-safely.

By process, since a fork may happen while another thread holds one; the child would wait for it for ever.
"""


@dataclass(frozen=True)
class Picture:
    """A decoded source.

    image: upright, 8 bits a channel. sha256: hash of the file's bytes, or of the array's or PIL image's values. name:
    the file's name without folders, or None. alpha: its alpha channel, mode "L", if it was kept; None: it has none.
    """

    image: Image.Image
    sha256: str
    name: str | None
    alpha: Image.Image | None = None

    @property
    def identity(self) -> dict[str, str | None]:
        """The recipe's entry for this source."""
        return {"name": self.name, "sha256": self.sha256}


@dataclass(frozen=True)
class Decoded:
    """A source's upright image in whatever mode it has. title: its name in messages."""

    image: Image.Image
    sha256: str
    name: str | None
    title: str


def open_picture(source: Source, what: str, channels: int = 3, *, keep_alpha: bool = False) -> Picture:
    """Decode to upright 8-bit RGB, or to grey if `channels` is 1. `what` names the source in an ImageError.

    keep_alpha: transparent pixels, which are refused otherwise, have their colours as stored, and `alpha` has the rest.
    """
    if channels not in MODES:
        raise ImageError(f"{what}: a network of {channels} channels does not take images")
    decoded = decode(source, what)
    with memory_for(_sized(decoded.title, decoded.image.size), 4 * decoded.image.width * decoded.image.height):
        if not keep_alpha:
            return Picture(to_mode(decoded.image, MODES[channels], decoded.title), decoded.sha256, decoded.name)
        opaque, alpha = split_alpha(decoded.image, decoded.title)
        picture = convert_colours(opaque, MODES[channels], decoded.title)
        return Picture(picture, decoded.sha256, decoded.name, alpha)


def load_result(path: Path) -> Image.Image:
    """An image that sdedit wrote, with its texts in `info`, its `format` and unconverted pixels. Raises ImageError."""
    data = read_bytes(path, "image")
    image = _decode_bytes(data, f"image {path}")
    image.format = identify(data[:12])
    return image


def decode(source: Source, what: str) -> Decoded:
    """Decode a source to an upright PIL image of whatever mode it has. Raises ImageError."""
    if isinstance(source, np.ndarray):
        return Decoded(_array_image(source, what), array_sha256(source), None, what)
    if isinstance(source, Image.Image):
        image = _copy_image(source, what)
        return Decoded(image, image_sha256(image), None, what)
    encoded = read_source(source, what)
    image = _decode_bytes(encoded.data, encoded.title)
    return Decoded(image, hashlib.sha256(encoded.data).hexdigest(), encoded.name, encoded.title)


def identify(head: bytes) -> str | None:
    """The format of a file by its first 12 bytes, or None. TGA, which begins with nothing special, is what remains."""
    for name, signature in SIGNATURES.items():
        if head.startswith(signature):
            return name
    if webp.is_webp(head):
        return "WEBP"
    if head[:1] == b"P" and head[1:2] in b"123456":
        return "PPM"
    return None


def picture_size(data: bytes, what: str) -> tuple[int, int]:
    """Width and height that an encoded image states. Its pixels are not decoded. Raises ImageError."""
    with _errors_of(what):
        format_name, container = _take_apart(data, what)
        if format_name == "WEBP" and (size := webp.webp_size(container.pixels)):
            return size
        width, height = _open_with_pillow(container, format_name, what).size
        return width, height


def _decode_bytes(data: bytes, title: str) -> Image.Image:
    with _errors_of(title):
        format_name, container = _take_apart(data, title)
        if container.damaged:
            warn(title, f"has damaged side data, which is not used: {', '.join(dict.fromkeys(container.damaged))}")
        image = _read_pixels(container, format_name, title)
    if container.frames > 1:
        warn(title, f"has {container.frames} frames or pages: the first is used")
    image = _upright(image, container.orientation)
    texts = {key: text for key, text in container.texts.items() if key not in (*COLOUR_KEYS, "transparency")}
    image.info = texts | container.colour | _key_of(image)
    return image


def _take_apart(data: bytes, title: str) -> tuple[str | None, Container]:
    """The format's name (None: TGA, or no image) and the file taken apart."""
    if refused := REFUSED.get(data[4:12]):
        raise ImageError(f"{title} is {refused}, which is not decoded: convert it to PNG or JPEG first")
    if hint := git_lfs_hint(data):
        raise ImageError(f"{title} is not an image{hint}")
    format_name = identify(data)
    return format_name, READERS[format_name](data) if format_name in READERS else Container(data)


@contextmanager
def _errors_of(title: str) -> Iterator[None]:
    """Turn what readers of formats raise into ImageErrors."""
    try:
        yield
    except UnsupportedError as error:
        raise ImageError(f"{title} is {error}, which is not decoded") from None
    except DamagedError as error:
        raise ImageError(f"{title} is damaged: {error}") from None
    except Image.DecompressionBombError:
        limit = Image.MAX_IMAGE_PIXELS
        raise ImageError(
            f"{title} is too large for this process, which set PIL's MAX_IMAGE_PIXELS to {limit}"
        ) from None


def _read_pixels(container: Container, format_name: str | None, title: str) -> Image.Image:
    """All pixels of the first frame, as stored."""
    if format_name == "WEBP" and (size := webp.webp_size(container.pixels)):
        _check_size(size, title)
    image = _open_with_pillow(container, format_name, title)
    _check_size(image.size, title)
    sized, wanted = _sized(title, image.size), 4 * image.width * image.height
    with memory_for(sized, wanted):
        try:
            image.load()
        except (MemoryError, Image.DecompressionBombError):
            raise
        except Exception as error:  # Pillow's decoders raise a dozen types for damaged files
            if "out of memory" in str(error):
                raise MemoryError from None
            raise DamagedError(reason(error)) from None
        if isinstance(container, png.PngContainer) and (alpha := png.read_alpha(container, image)) is not None:
            return add_alpha(image, alpha)
        if isinstance(container, tiff.TiffContainer):
            return tiff.correct_samples(container, image)
    return image


def _open_with_pillow(container: Container, format_name: str | None, title: str) -> Image.Image:
    """Open with the format's own class: Image.open reads and warns by settings that all of a process shares."""
    name = SPELLINGS.get(format_name or "TGA", (format_name or "TGA").capitalize())
    plugin = importlib.import_module(f"PIL.{name}ImagePlugin")
    try:
        return getattr(plugin, f"{name}ImageFile")(io.BytesIO(container.pixels))
    except (MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:  # likewise
        if isinstance(container, tiff.TiffContainer) and "unknown" in str(error):
            raise UnsupportedError(tiff.describe(container.values)) from None
        if format_name in READERS:
            raise DamagedError(reason(error)) from None
        raise ImageError(f"{title} is not an image of format {', '.join(FORMATS)}") from None


def _copy_image(image: Image.Image, what: str) -> Image.Image:
    """An upright copy of a caller's PIL image, which is read (once, as by any use) and not changed."""
    try:
        lock = _LOCKS.setdefault((os.getpid(), id(image) // 16 % 64), threading.Lock())
        with lock, memory_for(_sized(what, image.size), 4 * image.width * image.height):
            frames, frame = _count_frames(image), image.tell()
            image.load()
            copy = image.copy()
            orientation = _orientation(image)
    except ImageError:
        raise
    except Exception as error:  # as in _read_pixels
        raise ImageError(f"{what} is damaged: {reason(error)}") from None
    if 0 in copy.size:
        raise ImageError(f"{what} is {times(copy.size)} pixels: there is nothing to see")
    if frames > 1:
        warn(what, f"has {frames} frames or pages: number {frame + 1} is used")
    return _upright(copy, orientation)


def _count_frames(image: Image.Image) -> int:
    try:
        return getattr(image, "n_frames", 1)
    except Exception:  # its file is closed, or a later frame is damaged
        return 1


def _orientation(image: Image.Image) -> int:
    """The orientation that a PIL image's metadata note, 1 to 8."""
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    if isinstance(exif, bytes):
        if (value := exif_orientation(exif)) is not None:
            return value
        if isinstance(xmp, bytes) and (match := XMP_ORIENTATION.search(xmp)):
            return int(match[1])
        return 1
    try:
        return image.getexif().get(274, 1)
    except Exception:  # damaged notes cost the notes
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _key_of(image: Image.Image) -> dict[str, Any]:
    """The transparency that Pillow noted, of GIFs and palettes."""
    return {"transparency": image.info["transparency"]} if "transparency" in image.info else {}


def _check_size(size: tuple[int, int], title: str) -> None:
    if 0 in size:
        raise ImageError(f"{title} is {times(size)} pixels: there is nothing to see")
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{title} is {times(size)} pixels; at most {MAX_PIXELS} pixels are decoded")


def _array_image(array: np.ndarray, what: str) -> Image.Image:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))) or array.size == 0:
        raise ImageError(
            f"{what} is an array of {array.dtype} {list(array.shape)}; accepted are uint8 [H, W(, 3 or 4)]"
        )
    with memory_for(what, 2 * array.size):
        return Image.fromarray(np.ascontiguousarray(array))


def _sized(title: str, size: tuple[int, int]) -> str:
    return f"{title} of {times(size)} pixels"


def times(size: tuple[int, int]) -> str:
    """A size (width, height) as a message says it: 640x480."""
    return f"{size[0]}x{size[1]}"
