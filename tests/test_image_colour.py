"""Descriptions of colours: kept as long as they are true, or used to convert to sRGB, and never lost without a word."""

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoded_images import GREY, PALETTE, RGB, chunk, encoded, png
from pictures import random_photo
from PIL import Image, ImageCms
from stubs import stub_editor

from sdedit.runtime.images import masked_canvas, open_mask, open_picture, paste, save_image, whole_canvas
from sdedit.runtime.images.strokes import stroke_painting

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def profile_of(space: bytes, size: int = 0) -> bytes:
    """sRGB's profile that says it is of other pixels, made longer."""
    changed = SRGB[:16] + space + SRGB[20:] + bytes(size)
    return struct.pack(">I", len(changed)) + changed[4:]


def grey_gamma_profile(gamma: float) -> bytes:
    """A profile of grey pixels with this gamma, of ICC version 2."""
    tags = [
        (b"desc", b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78)),
        (b"wtpt", b"XYZ " + bytes(4) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)),
        (b"kTRC", b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)),
        (b"cprt", b"text" + bytes(4) + b"none\0" + bytes(3)),
    ]
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    header += bytes(28) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return header.ljust(128, b"\0") + table + body


def description(name: str) -> bytes:
    """A chunk of that name."""
    return chunk(
        name.encode(),
        {
            "gAMA": struct.pack(">I", 45455),
            "cHRM": struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000),
            "sRGB": b"\1",
            "cICP": bytes([9, 16, 0, 1]),
            "iCCP": b"name\0\0" + zlib.compress(SRGB),
        }[name],
    )


NAMES = ("gAMA", "cHRM", "sRGB", "cICP", "iCCP")


def saved_chunks(image: Image.Image, path: Path) -> dict[bytes, bytes]:
    save_image(image, path, {})
    data = path.read_bytes()
    found, at = {}, 8
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    return found


def coloured(kind: str, *chunks: bytes) -> bytes:
    """A PNG of a kind whose pixels keep their meaning in RGB."""
    values = np.asarray(random_photo(12, 8)).astype(int)
    if kind == "RGB":
        return png(8, RGB, values, *chunks)
    if kind == "RGBA":
        return png(8, 6, np.dstack([values, np.full((8, 12), 255)]), *chunks)
    if kind == "16 bits":
        return png(16, RGB, values * 257, *chunks)
    if kind == "grey":
        return png(8, GREY, values[..., 0], *chunks)
    return png(8, PALETTE, values[..., 0] % 4, *chunks, chunk(b"PLTE", bytes(range(12))))


@pytest.mark.parametrize("kind", ["RGB", "RGBA", "16 bits", "palette", "grey"])
@pytest.mark.parametrize("name", NAMES)
def test_the_description_goes_with_the_colours_to_the_result(kind: str, name: str, tmp_path: Path) -> None:
    expected = description(name)
    guide = tmp_path / "guide.png"
    guide.write_bytes(coloured(kind, expected))
    photo = open_picture(guide, "guide").image
    mask = np.zeros((8, 12), np.float32)
    mask[2:5, 3:6] = 1
    results = [whole_canvas(photo, (6, 5), fit) for fit in ("crop", "pad", "stretch")]
    results += [whole_canvas(photo, (12, 8), "crop"), masked_canvas(photo, mask, (6, 4), 0, 0.1)]
    for canvas in results:
        chunks = saved_chunks(paste(canvas, Image.new("RGB", canvas.part.size), exact=True), tmp_path / "out.png")
        if name == "iCCP":
            assert zlib.decompress(chunks[b"iCCP"].split(b"\0", 1)[1][1:]) == SRGB
        else:
            assert chunks[name.encode()] == expected[8:-4]
        assert len([key for key in chunks if key.decode() in NAMES]) == 1
    assert name.encode() in saved_chunks(stroke_painting(photo, 5, 3), tmp_path / "strokes.png")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "PNG"])
@pytest.mark.parametrize("size", [0, 200_000, 3_000_000])
def test_profiles_of_all_formats_and_sizes(kind: str, size: int, caplog: pytest.LogCaptureFixture) -> None:
    profile = profile_of(b"RGB ", size)
    data = encoded(random_photo(9, 7), kind, icc_profile=profile)
    assert open_picture(data, "guide").image.info == {"icc_profile": profile}
    assert not caplog.records


def test_a_pil_image_keeps_its_description() -> None:
    image = Image.new("RGBA", (4, 4), "white")
    image.info = {"icc_profile": SRGB, "gamma": 0.45, "comment": "no colour", "exif": b"nonsense"}
    assert open_picture(image, "guide").image.info == {"icc_profile": SRGB, "gamma": 0.45}
    assert len(image.info) == 4


@pytest.mark.parametrize(
    ("mode", "profile", "said"),
    [
        ("RGB", b"x" * 200, "is damaged"),
        ("RGB", SRGB[:100], "is damaged"),
        ("RGB", profile_of(b"GRAY"), "describes GRAY pixels, and it has RGB pixels"),
        ("CMYK", SRGB, "describes RGB pixels, and it has CMYK pixels"),
        ("L", profile_of(b"CMYK"), "describes CMYK pixels, and it has GRAY pixels"),
    ],
    ids=["noise", "cut", "grey in RGB", "RGB in CMYK", "CMYK in grey"],  # a profile holds the time of its making
)
def test_a_profile_that_is_not_true_is_dropped_and_said(
    mode: str, profile: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = random_photo(6, 5).convert(mode)
    plain = np.asarray(open_picture(image, "guide").image)
    image.info["icc_profile"] = profile
    picture = open_picture(image, "guide").image
    assert "icc_profile" not in picture.info
    assert np.array_equal(np.asarray(picture), plain)
    assert caplog.messages == [f"guide has a colour profile that {said}: it is not used"]


def test_grey_with_a_profile_becomes_srgb_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    image = Image.linear_gradient("L").resize((4, 256))
    image.info["icc_profile"] = grey_gamma_profile(1.0)
    for source in (image, encoded(image, "PNG", icc_profile=image.info["icc_profile"])):
        picture = open_picture(source, "guide").image
        assert picture.info == {"srgb": 0}
        linear = 128 / 255
        srgb = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)
        assert picture.getpixel((0, 128)) == pytest.approx((srgb,) * 3, abs=1.5)
    assert caplog.messages == ["guide was converted from its GRAY colour profile to sRGB"] * 2
    assert open_picture(image, "guide", channels=1).image.info == {"icc_profile": grey_gamma_profile(1.0)}


def test_a_profile_that_cannot_be_used_is_said(caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("L", (4, 4), 100)
    image.info["icc_profile"] = grey_gamma_profile(1.0)[:128] + bytes(400)
    assert open_picture(image, "guide").image.getpixel((0, 0)) == (100, 100, 100)
    assert caplog.messages == [
        "guide has a colour profile that cannot be converted to sRGB: its GRAY pixels are taken without it"
    ]


def test_colours_for_a_network_of_grey_are_converted_by_their_profile(caplog: pytest.LogCaptureFixture) -> None:
    image = random_photo(6, 5)
    plain = np.asarray(open_picture(image, "guide", channels=1).image).astype(int)
    image.info["icc_profile"] = SRGB
    picture = open_picture(image, "guide", channels=1).image
    assert picture.info == {}
    assert np.abs(np.asarray(picture).astype(int) - plain).max() <= 2
    assert caplog.messages == ["guide was converted from its RGB colour profile to sRGB"]


def test_a_masks_values_are_no_colours(caplog: pytest.LogCaptureFixture) -> None:
    image = Image.linear_gradient("L")
    image.info["icc_profile"] = grey_gamma_profile(1.0)
    values, _ = open_mask(image, (256, 256))
    assert np.array_equal(values, np.asarray(image) / np.float32(255))
    assert not caplog.records


@pytest.mark.parametrize("info", [{"gamma": "2.2"}, {"gamma": -1}, {"chromaticity": 3}, {"srgb": "x"}, {"cicp": 7}])
def test_a_description_that_fits_no_chunk_is_left_out(info: dict[str, Any], tmp_path: Path) -> None:
    image = random_photo(4, 4)
    image.info.update(info)
    assert not saved_chunks(image, tmp_path / "out.png").keys() & {name.encode() for name in NAMES}
    with Image.open(tmp_path / "out.png") as again:
        assert np.array_equal(np.asarray(again), np.asarray(image))


def test_a_whole_edit_keeps_the_description(tmp_path: Path) -> None:
    (tmp_path / "guide.png").write_bytes(coloured("palette", description("cICP"), description("gAMA")))
    with stub_editor(lambda x, time: -x) as editor:
        for mask in (None, np.ones((8, 12))):
            edit = editor.edit(tmp_path / "guide.png", mask, steps=1, fit="pad")
            chunks = saved_chunks(edit.images[0].pil, tmp_path / "out.png")
            assert (chunks[b"cICP"], chunks[b"gAMA"]) == (bytes([9, 16, 0, 1]), struct.pack(">I", 45455))


def test_what_is_said_goes_through_one_logger(caplog: pytest.LogCaptureFixture) -> None:
    image = random_photo(4, 4)
    image.info["icc_profile"] = b"no profile"
    open_picture(image, "guide\nof two lines")
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("sdedit", logging.WARNING)
    assert "\n" not in record.getMessage()
