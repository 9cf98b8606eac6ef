"""Samples of every depth, range and polarity: read as they are meant or refused by name; transparency is exact."""

import io
import struct

import numpy as np
import pytest
from encoded_images import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, chunk, encoded, png, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from refusals import refusal

from sdedit.runtime.images import open_mask, open_picture

OPAQUE = "guide has transparent pixels: flatten it first"


def greys(data: bytes) -> list[list[int]]:
    return np.asarray(open_picture(data, "guide", channels=1).image).tolist()


# TIFF: range and polarity


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_grey_tiffs_go_from_black_to_white(bits: int, order: str, big: bool) -> None:
    largest = (1 << bits) - 1
    samples = np.array([[0, largest // 3, largest, 0]] * 2)
    expected = [0, round(largest // 3 / largest * 255), 255, 0]
    data = tiff(samples, bits, 1, order=order, big=big)
    if (bits, order) == (12, ">"):
        assert "12 bits a sample" in refusal(open_picture, data, "guide")
    else:
        assert greys(data) == [expected] * 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_white_may_be_zero(bits: int) -> None:
    largest = (1 << bits) - 1
    assert greys(tiff(np.array([[0, largest, 0, largest]]), bits, 0)) == [[255, 0, 255, 0]]


def test_white_is_zero_in_a_mask_too() -> None:
    values, _ = open_mask(tiff(np.array([[0, 65535]]), 16, 0), (2, 1))
    assert values.tolist() == [[1, 0]]


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_16_bit_tiffs(kind: str) -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    assert greys(encoded(Image.fromarray(values), "TIFF", compression=kind)) == [[0, 1, 255]]


def test_16_bit_colours_keep_their_high_bytes() -> None:
    samples = np.array([[[0, 0x1234, 0xFFFF]]])
    for data in (tiff(samples, 16, 2), tiff(samples, 16, 2, order=">"), png(16, RGB, samples)):
        assert open_picture(data, "guide").image.getpixel((0, 0)) == (0, 0x12, 0xFF)


@pytest.mark.parametrize(
    ("bits", "photometric", "sample_format"),
    [(12, 0, 1), (16, 1, 2), (8, 1, 2), (10, 1, 1), (32, 1, 1), (32, 0, 1), (64, 1, 1), (16, 1, 3), (16, None, 1)],
)
def test_samples_of_an_unknown_range_are_refused_by_name(
    bits: int, photometric: int | None, sample_format: int
) -> None:
    size = 16 if bits == 64 else bits
    data = tiff(np.ones((2, 4), int), size, photometric, sample_format if size != 16 or sample_format != 3 else 1)
    data = data.replace(struct.pack("<HHIHH", 258, 3, 1, size, 0), struct.pack("<HHIHH", 258, 3, 1, bits, 0))
    data = data.replace(struct.pack("<HHIHH", 339, 3, 1, 1, 0), struct.pack("<HHIHH", 339, 3, 1, sample_format, 0))
    message = refusal(open_picture, data, "guide")
    stated = "none" if photometric is None else photometric
    assert f"guide is a TIFF of photometric interpretation {stated}, {bits} bits a sample" in message
    assert message.endswith(f"sample format {sample_format}, which is not decoded")


def test_a_bigtiff_of_the_other_byte_order_is_refused_by_name() -> None:
    data = tiff(np.ones((2, 2), int), 8, 1, order=">", big=True)
    assert refusal(open_picture, data, "guide") == "guide is a big-endian BigTIFF, which is not decoded"


def test_floating_point_is_refused_by_name() -> None:
    assert "guide has pixel mode F" in refusal(open_picture, tiff(np.ones((2, 2)), 32, 1, 3), "guide")


def test_subsampled_colour_without_compression_is_refused_by_name() -> None:
    assert "photometric interpretation 6" in refusal(open_picture, tiff(np.ones((2, 2, 3), int), 8, 6), "guide")


def test_a_jpeg_of_12_bits_is_refused_by_name() -> None:
    data = encoded(Image.new("RGB", (8, 8)), "JPEG").replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    assert refusal(open_picture, data, "guide") == "guide is a JPEG of 12 bits a sample, which is not decoded"


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_pil_images_of_16_bits(mode: str) -> None:
    values = np.array([[0, 257, 65535]], ">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes()) if mode == "I;16B" else Image.fromarray(values)
    image = image.convert("I") if mode == "I" else image
    assert image.mode == mode
    assert np.asarray(open_picture(image, "guide", channels=1).image).tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
@pytest.mark.parametrize("alpha", [0, 254, 255])
def test_every_mode_with_alpha(mode: str, alpha: int) -> None:
    opacity = Image.new("L", (2, 2), 255)
    opacity.putpixel((0, 0), alpha)
    image = Image.new({"P": "P", "L": "L"}.get(mode[0], "RGB"), (2, 2), "white")
    image.putalpha(opacity)
    image = image if image.mode == mode else image.convert(mode)
    assert image.mode == mode
    if alpha == 255:
        assert open_picture(image, "guide").image.getpixel((0, 0)) == (255, 255, 255)
    else:
        assert refusal(open_picture, image, "guide") == OPAQUE


# PNG: transparency by a key colour


def key_of(*values: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


@settings(deadline=None, max_examples=60)
@given(depth=st.sampled_from([1, 2, 4, 8, 16]), seed=st.integers(0, 2**32), near=st.sampled_from([0, 1, 256, -1]))
def test_grey_is_transparent_where_it_has_the_key_exactly(depth: int, seed: int, near: int) -> None:
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, 1 << depth, (3, 5))
    key = int(samples.flat[0] + near) % (1 << depth)
    samples[samples == key] = (key + 1) % (1 << depth)
    assert_transparent(png(depth, GREY, samples, key_of(key)), False)
    samples[1, 1] = key
    assert_transparent(png(depth, GREY, samples, key_of(key)), True)


@settings(deadline=None, max_examples=60)
@given(depth=st.sampled_from([8, 16]), seed=st.integers(0, 2**32), near=st.sampled_from([1, 2, 255, 256, -1]))
def test_colours_are_transparent_where_they_have_the_key_exactly(depth: int, seed: int, near: int) -> None:
    largest = (1 << depth) - 1
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, largest + 1, (3, 5, 3))
    key = [int(value) for value in rng.integers(0, largest + 1, 3)]
    miss = list(key)
    miss[seed % 3] = (key[seed % 3] + near) & largest
    samples[2, 2] = miss
    transparent = miss == key
    assert_transparent(png(depth, RGB, samples, key_of(*key)), transparent)
    samples[1, 1] = key
    assert_transparent(png(depth, RGB, samples, key_of(*key)), True)


def assert_transparent(data: bytes, transparent: bool) -> None:
    if transparent:
        assert refusal(open_picture, data, "guide") == OPAQUE
        assert "has transparent pixels" in refusal(open_mask, data, (5, 3))
    else:
        open_picture(data, "guide")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_is_transparent_where_an_entry_that_is_used_is(depth: int) -> None:
    palette = chunk(b"PLTE", bytes(range(6)))
    samples = np.zeros((2, 8), int)
    assert_transparent(png(depth, PALETTE, samples, palette, chunk(b"tRNS", b"\xff\x00")), False)
    assert_transparent(png(depth, PALETTE, samples, palette, chunk(b"tRNS", b"\xfe")), True)
    samples[0, 3] = 1
    assert_transparent(png(depth, PALETTE, samples, palette, chunk(b"tRNS", b"\xff\x00")), True)
    assert_transparent(png(depth, PALETTE, samples, palette, chunk(b"tRNS", b"\xff")), False)


@pytest.mark.parametrize(("colour", "channels"), [(GREY_ALPHA, 2), (RGBA, 4)])
def test_alpha_of_16_bits_is_opaque_at_its_largest_value_alone(colour: int, channels: int) -> None:
    samples = np.full((2, 2, channels), 65535)
    assert_transparent(png(16, colour, samples), False)
    for alpha in (65534, 65280, 255):
        samples[1, 0, -1] = alpha
        assert refusal(open_picture, png(16, colour, samples), "guide") == OPAQUE


def test_bits_of_a_key_above_the_depth_do_not_count() -> None:
    assert_transparent(png(4, GREY, np.full((3, 5), 5), key_of(0xF5)), True)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(chunk(b"tRNS", b"\0\0\0\0\0\0", broken=True), "wrong checksum"), (chunk(b"tRNS", b"\0\1"), "too short")],
)
def test_a_key_that_cannot_be_read_is_damage(broken: bytes, reason: str) -> None:
    assert reason in refusal(open_picture, png(8, RGB, np.zeros((2, 2, 3), int), broken), "guide")


def test_keys_of_images_that_a_caller_opened() -> None:
    """PIL scales 4-bit grey and cuts 16 bits to 8, but leaves the key as it is."""
    for data in (
        png(4, GREY, np.full((2, 2), 5), key_of(5)),
        png(16, RGB, np.full((2, 2, 3), 30000), key_of(30000, 30000, 30000)),
    ):
        assert "may have transparent pixels" in refusal(open_picture, Image.open(io.BytesIO(data)), "guide")
    for data in (
        png(4, GREY, np.full((2, 2), 6), key_of(5)),
        png(8, GREY, np.full((2, 2), 86), key_of(5)),
        png(16, RGB, np.full((2, 2, 3), 30000), key_of(1, 2, 30000)),
    ):
        open_picture(Image.open(io.BytesIO(data)), "guide")
