"""PNG files: their chunks, and key colours, which Pillow compares with pixels of 8 bits only."""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .colour import mask_of, other_colours
from .side_data import MAX_PROFILE_BYTES, MAX_TEXT_BYTES, Container, DamagedError

SIGNATURE = b"\x89PNG\r\n\x1a\n"

GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4
"""Colour types of the header. The first three have no alpha channel, and may have a tRNS chunk."""

COLOUR_CHUNKS = (b"gAMA", b"cHRM", b"sRGB", b"cICP")


@dataclass
class PngContainer(Container):
    """A PNG taken apart. depth: bits a sample. key: the tRNS chunk's bytes, or None."""

    depth: int = 8
    colour_type: int = RGB
    key: bytes | None = None


def read_png(data: bytes) -> PngContainer:
    """Take a PNG apart; `pixels` keeps the critical chunks. Raises DamagedError if a tRNS chunk is damaged."""
    png = PngContainer(b"")
    pieces: list[bytes | memoryview] = [SIGNATURE]
    notes: dict[bytes, bytes] = {}
    first_frame_is_shown = False
    for kind, body, raw, intact in _chunks(data):
        if kind == b"IHDR" and len(body) == 13:
            png.depth, png.colour_type = body[8], body[9]
        if kind[:1].isupper():
            pieces.append(raw)
        elif intact:
            _take(png, notes, kind, bytes(body))
        elif kind == b"tRNS":
            raise DamagedError("its tRNS chunk has a wrong checksum")
        else:
            png.damaged.append(f"{kind.decode()} chunk")
        first_frame_is_shown |= kind == b"fcTL" and not notes.get(b"IDAT")
        if kind == b"IDAT":
            notes[b"IDAT"] = kind
    if png.frames > 1 and not first_frame_is_shown:
        png.frames += 1  # the still image is not one of the animation's frames
    png.pixels = b"".join(pieces)
    png.set_orientation(notes.get(b"eXIf"), notes.get(b"xmp"))
    return png


def read_alpha(png: PngContainer, image: Image.Image) -> Image.Image | None:
    """The alpha channel by a tRNS chunk or by 16 bits of alpha, mode "L". Only pixels that are wholly opaque have 255.

    image: as Pillow decoded png.pixels. None if there is no alpha, or alpha of 8 bits, which is a channel of the image.
    Raises DamagedError.
    """
    if png.colour_type not in (GREY, RGB, PALETTE):
        return _alpha_of_16_bits(png) if png.depth == 16 else None
    if png.key is None:
        return None
    if png.colour_type == PALETTE:
        table = np.full(256, 255, np.uint8)
        table[: len(png.key)] = np.frombuffer(png.key[:256], np.uint8)
        return Image.fromarray(table[np.asarray(image)])
    samples = 3 if png.colour_type == RGB else 1
    if len(png.key) < 2 * samples:
        raise DamagedError("its tRNS chunk is too short")
    key = [int(value) & ((1 << png.depth) - 1) for value in np.frombuffer(png.key, ">u2", samples)]
    if png.depth == 16 and samples == 1:
        return mask_of(np.asarray(image) != key[0])
    if png.depth == 16:
        low = _decode_as(png, "RGB;16L")
        return other_colours([*image.split(), *low.split()], [*(v >> 8 for v in key), *(v & 255 for v in key)])
    bands = image.split() if samples == 3 else [image.convert("L")]
    return other_colours(bands, [value * (255 // ((1 << png.depth) - 1)) for value in key])


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview, memoryview, bool]]:
    """Each chunk: its type, body, all its bytes, and whether its checksum is right (not tested if it is critical).

    Where a critical chunk is cut, or no chunk begins, all the rest is the last one, and left to Pillow to refuse.
    """
    view = memoryview(data)
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if not kind.isalpha() or end > len(data):
            if not kind[:1].islower():
                yield b"IDAT", view[:0], view[at:], False
            return
        checked = view[at + 4 : end - 4]
        intact = kind[:1].isupper() or zlib.crc32(checked) == struct.unpack_from(">I", data, end - 4)[0]
        yield kind, view[at + 8 : end - 4], view[at:end], intact
        if kind == b"IEND":
            return
        at = end


def _take(png: PngContainer, notes: dict[bytes, bytes], kind: bytes, body: bytes) -> None:
    """Take what is used from an ancillary chunk. Of two of a kind the first counts, as in libpng."""
    if kind == b"tRNS":
        png.key = body if png.key is None else png.key
    elif kind == b"iCCP" and "icc_profile" not in png.colour:
        png.set_profile(_inflate(body.partition(b"\0")[2][1:], MAX_PROFILE_BYTES))
    elif kind in COLOUR_CHUNKS:
        try:
            png.colour.setdefault(*_colour_value(kind, body))
        except struct.error:
            png.damaged.append(f"{kind.decode()} chunk")
    elif kind == b"eXIf":
        notes.setdefault(kind, body)
    elif kind == b"acTL" and len(body) == 8:
        png.frames = max(1, int.from_bytes(body[:4], "big"))
    elif kind in (b"tEXt", b"zTXt", b"iTXt"):
        _take_text(png, notes, kind, body)


def _colour_value(kind: bytes, body: bytes) -> tuple[str, Any]:
    """The key and value of PIL's `info` for a chunk that describes colours. Raises struct.error for another length."""
    if kind == b"gAMA":
        return "gamma", struct.unpack(">I", body)[0] / 100000
    if kind == b"cHRM":
        return "chromaticity", tuple(value / 100000 for value in struct.unpack(">8I", body))
    if kind == b"sRGB":
        return "srgb", struct.unpack("B", body)[0]
    return "cicp", struct.unpack("4s", body)[0]


def _take_text(png: PngContainer, notes: dict[bytes, bytes], kind: bytes, body: bytes) -> None:
    key, _, rest = body.partition(b"\0")
    text: bytes | None = rest
    if kind == b"iTXt":
        text = rest[2:].split(b"\0", 2)[-1]
        text = _inflate(text, MAX_TEXT_BYTES) if rest[:1] == b"\1" else text
    elif kind == b"zTXt":
        text = _inflate(rest[1:], MAX_TEXT_BYTES)
    if text is None or len(text) > MAX_TEXT_BYTES:
        return
    if key == b"XML:com.adobe.xmp":
        notes.setdefault(b"xmp", text)
    elif key == b"Raw profile type exif":
        try:
            notes.setdefault(b"eXIf", bytes.fromhex("".join(text.decode("latin-1").split("\n")[3:])))
        except ValueError:
            png.damaged.append("EXIF data")
    png.texts[key.decode("latin-1")] = text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def _inflate(data: bytes, limit: int) -> bytes | None:
    """Decompressed data of at most `limit` bytes; None if they are damaged or longer."""
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error:
        return None
    return inflated if inflater.eof and len(inflated) <= limit else None


def _alpha_of_16_bits(png: PngContainer) -> Image.Image:
    """Alpha of 16 bits as 8 bits, rounded down: only 65535 is opaque."""
    if png.colour_type == GREY_ALPHA:
        bands = _decode_as(png, "RGBA").split()[2:]  # two bytes of grey, two of alpha
    else:
        bands = (_decode_as(png, "RGBA;16B").getchannel("A"), _decode_as(png, "RGBA;16L").getchannel("A"))
    high, low = (np.asarray(band, np.uint16) for band in bands)
    return Image.fromarray(((high << 8 | low) // 257).astype(np.uint8))


def _decode_as(png: PngContainer, layout: str) -> Image.Image:
    """Decode with PIL's raw mode `layout`: of 16-bit samples (high byte first) "...;16L" takes the low bytes."""
    from PIL.PngImagePlugin import PngImageFile

    image = PngImageFile(io.BytesIO(png.pixels))
    image.tile = [tile._replace(args=layout) for tile in image.tile]
    image.load()
    return image
