"""WebP files: their chunks and, before anything is decoded, their size."""

import struct
from collections.abc import Iterator

from .side_data import Container
from .xmp import read_xmp


def is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def read_webp(data: bytes) -> Container:
    """Take a WebP apart. `pixels` is the whole file: Pillow does not look into its side data."""
    webp = Container(data)
    notes: dict[bytes, bytes] = {}
    frames = 0
    for kind, body in _chunks(data):
        frames += kind == b"ANMF"
        if kind in (b"ICCP", b"EXIF", b"XMP "):
            notes.setdefault(kind, bytes(body))
    webp.frames = max(1, frames)
    webp.set_orientation(notes.get(b"EXIF"), notes.get(b"XMP "))
    webp.texts = read_xmp(notes.get(b"XMP "))
    if b"ICCP" in notes:
        webp.set_profile(notes[b"ICCP"])
    return webp


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height that the first chunk states; None if it states none. Pillow's decoder allocates them at once."""
    for kind, body in _chunks(data):
        if kind == b"VP8X" and len(body) >= 10:
            return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
        if kind == b"VP8L" and len(body) >= 5:
            bits = int.from_bytes(body[1:5], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        if kind == b"VP8 " and len(body) >= 10:
            width, height = struct.unpack_from("<HH", body, 6)
            return width & 0x3FFF, height & 0x3FFF
        return None
    return None


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Each chunk's type and body; the last body may be cut."""
    view = memoryview(data)
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        yield kind, view[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
