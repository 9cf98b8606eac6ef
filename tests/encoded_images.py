"""Encoded images made by hand, with kinds of samples and side data that PIL does not write."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6


def chunk(kind: bytes, body: bytes, broken: bool = False) -> bytes:
    """A PNG's chunk; broken: with a wrong checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body) ^ broken)


def png(depth: int, colour: int, samples: np.ndarray, *before: bytes, after: Sequence[bytes] = ()) -> bytes:
    """A PNG of samples [H, W] or [H, W, C] of `depth` bits, with chunks before and after its pixels."""
    rows = []
    for row in samples.reshape(len(samples), -1):
        if depth == 16:
            rows.append(b"\0" + row.astype(">u2").tobytes())
        else:
            bits = (row[:, None] >> np.arange(depth)[::-1]) & 1
            rows.append(b"\0" + np.packbits(bits).tobytes())
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    chunks = [chunk(b"IHDR", header), *before, pixels, *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int | None,
    sample_format: int = 1,
    order: str = "<",
    big: bool = False,
    more: Sequence[tuple[int, int, int, int]] = (),
    tail: bytes = b"",
) -> bytes:
    """An uncompressed TIFF of samples [H, W] or [H, W, C] of `bits` bits; more: entries (tag, type, count, value)."""
    height, width = samples.shape[:2]
    channels = samples.shape[2] if samples.ndim == 3 else 1
    if bits in (8, 16, 32):
        data = samples.astype(
            np.dtype(f"{'f' if sample_format == 3 else 'u'}{bits // 8}").newbyteorder(order)
        ).tobytes()
    else:
        rows = samples.reshape(height, -1)
        data = b"".join(np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() for row in rows)
    header = 16 if big else 8
    entries = [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, 1), (273, 4, 1, header), (277, 3, 1, channels)]
    entries += [(278, 4, 1, height), (279, 4, 1, len(data)), (339, 3, 1, sample_format), *more]
    entries += [(258, 3, 1, bits)] if channels == 1 or big else []
    if photometric is not None:
        entries.append((262, 3, 1, photometric))
    page_at = header + len(data) + len(data) % 2
    if channels > 1 and not big:
        entries.append((258, 3, channels, page_at + 2 + 12 * (len(entries) + 1) + 4))
        tail = struct.pack(f"{order}{channels}H", *[bits] * channels) + tail
    packed = [_entry(order, big, *entry) for entry in sorted(entries)]
    count = struct.pack(order + ("Q" if big else "H"), len(packed))
    mark = b"II" if order == "<" else b"MM"
    start = struct.pack(order + "HHHQ", 43, 8, 0, page_at) if big else struct.pack(order + "HI", 42, page_at)
    return mark + start + data + bytes(len(data) % 2) + count + b"".join(packed) + bytes(8 if big else 4) + tail


def _entry(order: str, big: bool, tag: int, kind: int, count: int, value: int) -> bytes:
    inline = (
        struct.pack(order + {3: "H", 4: "I", 7: "I"}[kind], value) if count == 1 else struct.pack(order + "I", value)
    )
    return struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + inline.ljust(8 if big else 4, b"\0")


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def orientation_note(value: int, order: str = "<") -> bytes:
    """EXIF data that note nothing but an orientation."""
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIHHHIHHI", 42, 8, 1, 274, 3, 1, value, 0, 0)
