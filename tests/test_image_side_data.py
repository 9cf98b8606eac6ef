"""Side data: damaged notes cost only themselves, frames are counted, photos turned upright, no global state touched."""

import io
import struct
import threading
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from encoded_images import RGB, chunk, encoded, orientation_note, png, tiff
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import random_photo
from PIL import Image, PngImagePlugin, TiffImagePlugin
from refusals import refusal

from sdedit.errors import ImageError
from sdedit.runtime.images import load_result, open_mask, open_picture
from sdedit.runtime.images.side_data import exif_orientation

PHOTO = np.asarray(random_photo(7, 5))
SAMPLES = PHOTO.astype(int)
KINDS = ("PNG", "JPEG", "WEBP", "TIFF")


def read(data: bytes) -> np.ndarray:
    return np.asarray(open_picture(data, "guide").image)


# Damaged or large notes

TEXT = b"workflow\0"
NOTES = {
    "2 MB of text": chunk(b"zTXt", TEXT + b"\0" + zlib.compress(b"x" * 2_000_000)),
    "80 MB of text": chunk(b"zTXt", TEXT + b"\0" + zlib.compress(b"x" * 80_000_000)),
    "100 texts of 1 MB": b"".join(chunk(b"tEXt", b"k%d\0" % k + b"x" * 1_000_000) for k in range(100)),
    "a text of another compression": chunk(b"zTXt", TEXT + b"\7xxx"),
    "a cut text": chunk(b"iTXt", TEXT + b"\1\0\0\0" + zlib.compress(b"x" * 1000)[:9]),
    "a text with a wrong checksum": chunk(b"tEXt", TEXT + b"x", broken=True),
    "eXIf that is none": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "eXIf that is cut": chunk(b"eXIf", orientation_note(6)[:15]),
    "an empty eXIf": chunk(b"eXIf", b""),
    "raw EXIF that is none": chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzz"),
    "XMP that is none": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff<"),
    "iCCP that is none": chunk(b"iCCP", b"x\0\0" + b"nonsense"),
    "iCCP of 100 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000))),
    "iCCP of another compression": chunk(b"iCCP", b"x\0\5xx"),
    "an empty iCCP": chunk(b"iCCP", b""),
    "gAMA, cHRM, sRGB that are cut": chunk(b"gAMA", b"\0") + chunk(b"cHRM", b"\0") + chunk(b"sRGB", b""),
    "pHYs and tIME that are cut": chunk(b"pHYs", b"\0") + chunk(b"tIME", b""),
    "an animation of nonsense": chunk(b"acTL", b"\0" * 7) + chunk(b"fcTL", b"\1\2"),
    "a private chunk": chunk(b"prIv", b"x" * 10),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_pngs_notes_cost_no_pixels(name: str, tmp_path: Path) -> None:
    for data in (png(8, RGB, SAMPLES, NOTES[name]), png(8, RGB, SAMPLES, after=[NOTES[name]])):
        assert np.array_equal(read(data), PHOTO)
        (tmp_path / "result.png").write_bytes(data)
        assert np.array_equal(np.asarray(load_result(tmp_path / "result.png")), PHOTO)


def test_the_recipe_is_read_beside_a_large_text(tmp_path: Path) -> None:
    recipe = chunk(b"iTXt", b"sdedit\0\0\0\0\0" + '{"name": "ż"}'.encode())
    for chunks in ([recipe, NOTES["80 MB of text"]], [NOTES["2 MB of text"], recipe]):
        (tmp_path / "result.png").write_bytes(png(8, RGB, SAMPLES, *chunks))
        assert load_result(tmp_path / "result.png").info["sdedit"] == '{"name": "ż"}'


def test_a_png_that_ends_in_its_notes_is_read() -> None:
    data = png(8, RGB, SAMPLES, after=[chunk(b"tEXt", b"key\0" + b"x" * 100)])
    assert np.array_equal(read(data[:-80]), PHOTO)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


@pytest.mark.parametrize(
    "note",
    [
        segment(0xE1, b"Exif\0\0nonsense"),
        segment(0xE1, b"Exif\0\0" + orientation_note(6)[:14]),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<\xff"),
        segment(0xE2, b"ICC_PROFILE\0\1\2half"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"MPF\0MM\0*nonsense"),
        segment(0xE2, b"MPF\0II*\0" + struct.pack("<IHHHII", 8, 1, 0xB001, 4, 1, 2**31)),
        segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04"),
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xFE, b"x" * 65533),
    ],
    ids=lambda note: repr(note[4:20]),
)
def test_a_jpegs_notes_cost_no_pixels(note: bytes) -> None:
    data = encoded(random_photo(16, 16), "JPEG")
    assert np.array_equal(read(data[:2] + note + data[2:]), read(data))


@pytest.mark.parametrize(
    "entry",
    [
        (34675, 7, 4, 1),
        (34675, 7, 2**31, 2**31),
        (700, 7, 900, 2**31),
        (274, 3, 0, 6),
        (274, 4, 2**31, 6),
        (305, 2, 99, 99),
    ],
)
def test_a_tiffs_notes_cost_no_pixels(entry: tuple[int, int, int, int]) -> None:
    data = tiff(SAMPLES, 8, 2, more=[entry])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read(data), PHOTO)


def test_a_webps_notes_cost_no_pixels() -> None:
    photo = random_photo(16, 16)
    for options in ({"exif": b"Exif\0\0nonsense"}, {"xmp": b"<\xff"}, {"icc_profile": b"none"}):
        assert np.array_equal(read(encoded(photo, "WEBP", lossless=True, **options)), np.asarray(photo))


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278])
def test_a_tag_that_the_pixels_need_is_damage_without_a_warning(tag: int) -> None:
    data = tiff(SAMPLES, 8, 2)
    for kind, count in ((3, 2**30), (12, 5), (99, 1)):
        at = data.rindex(struct.pack("<H", tag), 0, len(data))
        for place in range(8, len(data) - 12):
            if data[place : place + 2] == struct.pack("<H", tag) and data[place + 2] in (3, 4) and data[place + 3] == 0:
                at = place
        broken = data[: at + 2] + struct.pack("<HI", kind, count) + data[at + 8 :]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ImageError, match=r"guide is (damaged|a TIFF)"):
                read(broken)


# Upright


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("how", ["file", "PIL"])
def test_photos_of_all_formats_are_turned_upright(kind: str, orientation: int, how: str) -> None:
    stored = random_photo(24, 16)
    exif = Image.Exif()
    exif[274] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, **options)
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    expected = stored if turn is None else stored.transpose(Image.Transpose(turn))
    picture = open_picture(data if how == "file" else Image.open(io.BytesIO(data)), "guide").image
    assert picture.size == expected.size
    assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).max() <= (8 if kind == "JPEG" else 0)
    assert open_mask(data, picture.size)[0].shape == picture.size[::-1]


@pytest.mark.parametrize("order", ["<", ">"])
def test_orientation_is_read_from_every_place_that_notes_it(order: str) -> None:
    expected = np.rot90(PHOTO, -1)
    note = orientation_note(6, order)
    xmp = b'<x tiff:Orientation="6"/>'
    raw = b"Raw profile type exif\0\nexif\n      32\n" + (b"Exif\0\0" + note).hex().encode()
    for notes in (
        chunk(b"eXIf", note),
        chunk(b"eXIf", b"Exif\0\0" + note),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
        chunk(b"tEXt", raw),
    ):
        assert np.array_equal(read(png(8, RGB, SAMPLES, notes)), expected)
        assert np.array_equal(read(png(8, RGB, SAMPLES, after=[notes])), expected)
    assert np.array_equal(read(tiff(SAMPLES, 8, 2, order=order, more=[(274, 3, 1, 6)])), expected)


@settings(deadline=None)
@given(note=st.binary(max_size=60) | st.binary(max_size=30).map(lambda tail: b"II*\0\x08\0\0\0" + tail))
def test_any_bytes_as_exif_are_an_orientation_or_none(note: bytes) -> None:
    assert exif_orientation(note) in (None, *range(1, 9))


# Frames


def animation(kind: str, count: int, **options: object) -> bytes:
    frames = [Image.new("RGB", (64, 48), (40 * k, 0, 200)) for k in range(count)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_frames_are_counted_and_said(kind: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    data = animation(kind, count)
    picture = open_picture(data, "guide").image
    assert np.abs(np.asarray(picture.getpixel((9, 9))) - (0, 0, 200)).max() <= 3
    said = [f"guide has {count} frames or pages: the first is used"]
    assert caplog.messages == (said if count > 1 else [])


def test_a_still_image_beside_an_animation_is_the_first_frame(caplog: pytest.LogCaptureFixture) -> None:
    data = animation("PNG", 3, default_image=True)
    with Image.open(io.BytesIO(data)) as image:
        expected = getattr(image, "n_frames")  # noqa: B009 - PNG alone has it
    open_picture(data, "guide")
    assert caplog.messages == [f"guide has {expected} frames or pages: the first is used"]


def test_reduced_pages_are_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    pages = io.BytesIO()
    reduced = TiffImagePlugin.ImageFileDirectory_v2()
    reduced[254] = 1
    small = Image.new("RGB", (8, 8))
    small.encoderinfo = {"tiffinfo": reduced}  # type: ignore[attr-defined] # how PIL takes it for one page
    random_photo(16, 16).save(pages, "TIFF", save_all=True, append_images=[small])
    open_picture(pages.getvalue(), "guide")
    assert not caplog.records


def test_pages_that_lead_back_are_counted_once(caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(tiff(SAMPLES, 8, 2))
    page_at = struct.unpack_from("<I", data, 4)[0]
    (count,) = struct.unpack_from("<H", data, page_at)
    struct.pack_into("<I", data, page_at + 2 + 12 * count, page_at)
    open_picture(bytes(data), "guide")
    assert caplog.messages == ["guide has 2 frames or pages: the first is used"]


def test_of_a_pil_animation_the_frame_at_hand_is_used(caplog: pytest.LogCaptureFixture) -> None:
    image = Image.open(io.BytesIO(animation("GIF", 4)))
    image.seek(2)
    picture = open_picture(image, "guide").image
    assert np.abs(np.asarray(picture.getpixel((9, 9))) - (80, 0, 200)).max() <= 3
    assert image.tell() == 2
    assert caplog.messages == ["guide has 4 frames or pages: number 3 is used"]


# Nothing global


def test_reading_in_threads_leaves_the_process_as_it_is(tmp_path: Path) -> None:
    sources = [encoded(random_photo(20, 20), kind) for kind in KINDS] + [animation("GIF", 2), NOTES["2 MB of text"]]
    sources.append(png(8, RGB, SAMPLES, NOTES["eXIf that is none"]))

    def settings_of_the_process() -> list[object]:
        return [list(warnings.filters), Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK, warnings.showwarning]

    def work() -> None:
        for _ in range(10):
            for source in sources:
                try:
                    open_picture(source, "guide")
                except ImageError:
                    continue

    before = settings_of_the_process()
    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings_of_the_process() == before


@pytest.mark.parametrize("kind", ["TIFF", "WEBP"])
def test_a_limit_that_the_host_set_is_said(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(random_photo(20, 20), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    expected = "guide is too large for this process, which set PIL's MAX_IMAGE_PIXELS to 10"
    assert refusal(open_picture, data, "guide") == expected
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert open_picture(data, "guide").image.size == (20, 20)


def test_the_project_touches_no_warning_filters_or_limits_at_run_time() -> None:
    root = Path(__file__).parent.parent
    for room in ("kernels", "runtime", "front"):
        for path in (root / room).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for word in (
                "catch_warnings",
                "simplefilter",
                "filterwarnings",
                "MAX_IMAGE_PIXELS =",
                "LOAD_TRUNCATED_IMAGES =",
            ):
                assert word not in text, f"{path.name} has {word}"


# PIL images in several threads


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_threads_may_share_a_pil_image_that_is_not_read_yet(kind: str) -> None:
    data = encoded(random_photo(300, 200), kind)
    expected = open_picture(data, "guide").image.tobytes()
    seen: Counter[bytes | str] = Counter()

    def work(image: Image.Image, start: threading.Barrier) -> None:
        start.wait()
        try:
            seen[open_picture(image, "guide").image.tobytes()] += 1
        except ImageError as error:
            seen[str(error)] += 1

    for _ in range(8):
        image, start = Image.open(io.BytesIO(data)), threading.Barrier(6)
        threads = [threading.Thread(target=work, args=(image, start)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert seen == {expected: 48}


def test_a_callers_pil_image_stays_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "photo.png").write_bytes(encoded(random_photo(9, 7), "PNG", exif=exif, dpi=(72, 72)))
    with (tmp_path / "photo.png").open("rb") as file:
        image = Image.open(file)
        before = dict(image.info), image.mode, image.size, image.getexif()[274]
        first = open_picture(image, "guide").image
        second = open_picture(image, "guide").image
        assert (dict(image.info), image.mode, image.size, image.getexif()[274]) == before
        assert not file.closed
    assert first.tobytes() == second.tobytes()
    first.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == random_photo(9, 7).getpixel((0, 0))
