"""JPEG files: their segments."""

import struct
from collections.abc import Iterator

from .side_data import Container, UnsupportedError
from .xmp import read_xmp

SIGNATURE = b"\xff\xd8\xff"

START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
APP0, APP1, APP2, APP14, COMMENT = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE
APPLICATION = range(0xE0, 0xF0)

EXIF, XMP, PROFILE, INDEX = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0"


def read_jpeg(data: bytes) -> Container:
    """Take a JPEG apart; `pixels` has no application segments but JFIF's and Adobe's, which say how colours are coded.

    Raises UnsupportedError for samples of more than 8 bits.
    """
    jpeg = Container(b"")
    pieces: list[bytes | memoryview] = [data[:2]]
    exif: list[bytes] = []
    profile: list[bytes] = []
    xmp = None
    for marker, body, raw in _segments(data):
        if marker in START_OF_FRAME and body[:1] not in (b"", b"\x08"):
            raise UnsupportedError(f"a JPEG of {body[0]} bits a sample")
        if marker in APPLICATION or marker == COMMENT:
            if marker == APP1 and body.startswith(EXIF):
                exif.append(body[len(EXIF) :])
            elif marker == APP1 and body.startswith(XMP):
                xmp = body if xmp is None else xmp
            elif marker == APP2 and body.startswith(PROFILE):
                profile.append(body[len(PROFILE) :])
            elif marker == APP2 and body.startswith(INDEX):
                jpeg.frames = _count_pictures(body[len(INDEX) :])
            if not _says_how_colours_are_coded(marker, body):
                continue
        pieces.append(raw)
    jpeg.pixels = b"".join(pieces)
    jpeg.set_orientation(b"".join(exif) if exif else None, xmp)
    jpeg.texts = read_xmp(xmp)
    if profile:
        jpeg.set_profile(_join_profile(profile))
    if xmp is not None and b"hdrgm:Version" in xmp:
        jpeg.frames = 1  # the second picture is a map of brightness for the first
    return jpeg


def _segments(data: bytes) -> Iterator[tuple[int, bytes, memoryview]]:
    """Each segment's marker, body and all its bytes, up to the first scan; the rest is the last one, without a body."""
    view = memoryview(data)
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xDA or end < at + 4 or end > len(data):
            break
        yield marker, data[at + 4 : end], view[at:end]
        at = end
    yield 0, b"", view[at:]


def _says_how_colours_are_coded(marker: int, body: bytes) -> bool:
    jfif = marker == APP0 and body.startswith(b"JFIF\0") and len(body) >= 14
    return jfif or (marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12)


def _join_profile(parts: list[bytes]) -> bytes | None:
    """A profile from its numbered parts, in any order; None if one is missing."""
    if any(len(part) < 2 for part in parts) or {part[1] for part in parts} != {len(parts)}:
        return None
    by_number = {part[0]: part[2:] for part in parts}
    if set(by_number) != set(range(1, len(parts) + 1)):
        return None
    return b"".join(by_number[number] for number in sorted(by_number))


def _count_pictures(index: bytes) -> int:
    """Pictures in a file by its Multi-Picture index, without those that are thumbnails; 1 if the index is damaged."""
    order = "<" if index[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", index, 4)
        (count,) = struct.unpack_from(order + "H", index, start)
        for number in range(count):
            tag, _, size, place = struct.unpack_from(order + "HHII", index, start + 2 + 12 * number)
            if tag == 0xB002:
                kinds = [struct.unpack_from(order + "I", index, place + at)[0] & 0xFFFFFF for at in range(0, size, 16)]
                return max(1, sum(kind >> 16 != 1 for kind in kinds))
    except struct.error:
        pass
    return 1
