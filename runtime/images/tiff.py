"""TIFF files: the tags of their first page, and samples that Pillow reads with another range or polarity."""

import struct
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from .colour import grey_image
from .side_data import Container, DamagedError, UnsupportedError

BIG_ENDIAN_BIGTIFF = b"MM\0+"
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", BIG_ENDIAN_BIGTIFF)

TYPE_SIZES = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes of a value, by its type in the file."""

MAX_PAGES = 10_000
MAX_SAMPLES = 6
"""Samples a pixel that Pillow decodes at most."""

MAX_LIST = 1 << 20
"""Longest list of values that is read here."""

SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, XMP = 254, 258, 259, 262, 274, 700
SAMPLES, SUBSAMPLING, SAMPLE_FORMAT, PROFILE = 277, 530, 339, 34675

PIXEL_TAGS = {256, 257, BITS, COMPRESSION, PHOTOMETRIC, 266, 273, SAMPLES, 278, 279, 284, 292, 293, 317, 320, 322, 323}
PIXEL_TAGS |= {324, 325, 332, 338, SAMPLE_FORMAT, 347, *range(512, 522), 529, SUBSAMPLING, 531, 532}
"""Tags that say where and how the pixels are stored. Pillow sees no others."""

SINGLE = {256, 257, COMPRESSION, PHOTOMETRIC, 266, SAMPLES, 278, 284, 317, 322, 323}
"""Tags that must have exactly one value."""

WHITE_IS_ZERO, BLACK_IS_ZERO, YCBCR = 0, 1, 6


class Entry(NamedTuple):
    """A tag of a page. kind: type of its values. length: how many. at: where they begin. raw: the entry's bytes."""

    tag: int
    kind: int
    length: int
    at: int
    raw: bytes


@dataclass
class TiffContainer(Container):
    """A TIFF taken apart. values: of the tags that say what a sample means."""

    values: dict[int, tuple[int, ...]] = field(default_factory=dict)


def read_tiff(data: bytes) -> TiffContainer:
    """Take a TIFF apart; `pixels` has one page, with the tags that its pixels need.

    Raises DamagedError, and UnsupportedError for samples whose range is not known.
    """
    if data[:4] == BIG_ENDIAN_BIGTIFF:
        raise UnsupportedError("a big-endian BigTIFF")  # Pillow takes it for another kind of TIFF
    layout = _Layout(data)
    entries, following = layout.page(layout.first)
    by_tag = {entry.tag: entry for entry in entries}
    kept = [entry for entry in entries if entry.tag in PIXEL_TAGS]
    for entry in kept:
        if not layout.fits(entry) or (entry.tag in SINGLE and entry.length != 1):
            raise DamagedError(f"its tag {entry.tag} is damaged")
    tiff = TiffContainer(layout.rewrite(kept))
    for tag in (BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, SUBSAMPLING, SAMPLE_FORMAT):
        if tag in by_tag and (numbers := layout.numbers(by_tag[tag])):
            tiff.values[tag] = numbers
    tiff.frames = layout.count_pages(following)
    xmp = layout.bytes_of(by_tag[XMP]) if XMP in by_tag else None
    tiff.set_orientation(None, xmp)
    if ORIENTATION in by_tag:
        value = layout.numbers(by_tag[ORIENTATION])
        tiff.orientation = value[0] if len(value) == 1 and 1 <= value[0] <= 8 else 1
    if PROFILE in by_tag:
        tiff.set_profile(layout.bytes_of(by_tag[PROFILE]))
    _check_samples(tiff.values)
    return tiff


def describe(values: dict[int, tuple[int, ...]]) -> str:
    """The kind of a TIFF's pixels, for messages."""
    bits = ", ".join(map(str, values.get(BITS, (1,))))
    photometric = values.get(PHOTOMETRIC, ("none",))[0]
    sample = values.get(SAMPLE_FORMAT, (1,))[0]
    return f"a TIFF of photometric interpretation {photometric}, {bits} bits a sample, sample format {sample}"


def correct_samples(tiff: TiffContainer, image: Image.Image) -> Image.Image:
    """The image with black 0 and white at its mode's largest value, where Pillow leaves another range or polarity."""
    if not image.mode.startswith("I;16"):
        return image
    bits = tiff.values.get(BITS, (1,))[0]
    inverted = tiff.values.get(PHOTOMETRIC) == (WHITE_IS_ZERO,)
    if bits == 16 and not inverted:
        return image
    return grey_image(np.asarray(image), (1 << bits) - 1, inverted)


def _check_samples(values: dict[int, tuple[int, ...]]) -> None:
    """Raise UnsupportedError for what Pillow would decode to other values than the file means."""
    formats = set(values.get(SAMPLE_FORMAT, (1,)))
    bits = set(values.get(BITS, (1,)))
    signed = 2 in formats and bits != {32}
    too_large = formats == {1} and bits == {32}  # of 0..2^32-1 PIL keeps the numbers, and they mean 0..65535 there
    no_polarity = PHOTOMETRIC not in values and values.get(COMPRESSION) not in ((6,), (7,))
    subsampled = (
        values.get(PHOTOMETRIC) == (YCBCR,)
        and values.get(COMPRESSION, (1,)) == (1,)
        and values.get(SUBSAMPLING, (2, 2)) != (1, 1)
        and len(values.get(BITS, (1,))) > 1
    )
    if values.get(SAMPLES, (1,))[0] > MAX_SAMPLES:
        raise UnsupportedError(f"a TIFF of {values[SAMPLES][0]} samples a pixel")
    if signed or too_large or no_polarity or subsampled:
        raise UnsupportedError(describe(values))


class _Layout:
    """Access to a TIFF's pages, in both byte orders, with offsets of 4 or 8 bytes (BigTIFF)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = b"+" in data[2:4]
        self._offset = "Q" if self._big else "I"
        self.first = self._unpack(self._offset, 8 if self._big else 4)[0]

    def page(self, at: int) -> tuple[list[Entry], int]:
        """The entries of the page at that offset, and the next page's offset (0: there is none)."""
        count_format, size = ("Q", 20) if self._big else ("H", 12)
        (count,) = self._unpack(count_format, at)
        at += struct.calcsize("=" + count_format)
        if count > 65535 or at + count * size > len(self._data):
            raise DamagedError("its list of tags is cut")
        entries = [self._entry(at + number * size, size) for number in range(count)]
        end = at + count * size
        whole = end + struct.calcsize("=" + self._offset) <= len(self._data)
        return entries, self._unpack(self._offset, end)[0] if whole else 0

    def fits(self, entry: Entry) -> bool:
        size = self._size(entry)
        return size > 0 and entry.at + size <= len(self._data)

    def bytes_of(self, entry: Entry) -> bytes | None:
        """The bytes of a tag's values; None if they are not all there."""
        return self._data[entry.at : entry.at + self._size(entry)] if self.fits(entry) else None

    def numbers(self, entry: Entry) -> tuple[int, ...]:
        """The whole numbers of a tag; none if they are of another kind."""
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(entry.kind)
        if letter is None or entry.length > MAX_LIST or not self.fits(entry):
            return ()
        return self._unpack(f"{entry.length}{letter}", entry.at)

    def count_pages(self, at: int) -> int:
        """Pages of the file without reduced images and masks, when `at` is the second one's offset."""
        seen: set[int] = set()
        pages = 1
        try:
            while at and at not in seen and len(seen) < MAX_PAGES:
                seen.add(at)
                entries, at = self.page(at)
                kinds = [self.numbers(entry) for entry in entries if entry.tag == SUBFILE]
                pages += not (kinds and kinds[0] and kinds[0][0] & 5)
        except DamagedError:
            pass
        return pages

    def rewrite(self, entries: list[Entry]) -> bytes:
        """The file with these tags alone, in a page at its end."""
        at = len(self._data) + len(self._data) % 2
        header = 8 if self._big else 4
        width = struct.calcsize("=" + self._offset)
        count = struct.pack(self._order + ("Q" if self._big else "H"), len(entries))
        page = count + b"".join(entry.raw for entry in entries) + bytes(width)
        start = struct.pack(self._order + self._offset, at)
        data = memoryview(self._data)
        return b"".join([data[:header], start, data[header + width :], bytes(len(self._data) % 2), page])

    def _entry(self, at: int, size: int) -> Entry:
        tag, kind, count = self._unpack("HH" + self._offset, at)
        width = struct.calcsize("=" + self._offset)
        place = at + size - width
        value_size = (TYPE_SIZES[kind] if kind < len(TYPE_SIZES) else 0) * count
        start = self._unpack(self._offset, place)[0] if value_size > width else place
        return Entry(tag, kind, count, start, self._data[at : at + size])

    def _size(self, entry: Entry) -> int:
        return (TYPE_SIZES[entry.kind] if entry.kind < len(TYPE_SIZES) else 0) * entry.length

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, self._data, at)
        except (struct.error, OverflowError):
            raise DamagedError("it ends too early") from None
