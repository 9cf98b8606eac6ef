"""WebP and JPEG: what they keep of a result, what is said of the rest, and texts in XMP, which come from outside."""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import GREY, RGB, random_photo
from PIL import Image, ImageCms, features
from refusals import refusal
from test_image_colour import grey_gamma_profile

from sdedit.runtime.images import check_output, load_result, open_picture, save_image
from sdedit.runtime.images.xmp import read_xmp, write_xmp
from sdedit.runtime.recipe import read_recipe, write_recipe
from sdedit.runtime.replay import _count_differences

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

HARD_NAME = 'żółw <&>"\'\n&lt;.png, tiff:Orientation="3", tiff:Orientation>6</text:sdedit>'
HARD = {"guide": {"name": HARD_NAME}, "seed": 2**64 - 1}
"""A recipe with all that XML gives a meaning, and with what looks like an orientation."""


@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.WEBP", "out.jpg", "out.JPEG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_keeps_size_recipe_and_a_profile(tmp_path: Path, name: str, mode: str) -> None:
    image = random_photo(33, 20).convert(mode)
    image.info["icc_profile"] = SRGB if mode == "RGB" else grey_gamma_profile(1.8)
    save_image(image, tmp_path / name, write_recipe(HARD))
    assert read_recipe(tmp_path / name) == HARD
    again = load_result(tmp_path / name)
    assert again.size == (33, 20)
    grey_webp = mode == "L" and again.format == "WEBP"
    assert again.info.get("icc_profile") == (None if grey_webp else image.info["icc_profile"])
    assert (_count_differences(image, again) == 0) == (again.format != "JPEG")
    with Image.open(tmp_path / name) as opened:
        assert opened.size == (33, 20)  # as other programs turn it
        assert opened.getexif().get(274, 1) == 1
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_jpeg_is_close_and_has_all_its_colours(tmp_path: Path) -> None:
    smooth = np.zeros((64, 64, 3), np.uint8)
    smooth[..., 0] = np.arange(0, 256, 4)
    smooth[:, ::2, 2] = 255  # lines of colour, which 4:2:0 would mix
    save_image(Image.fromarray(smooth), tmp_path / "out.jpg", {})
    error = np.abs(np.asarray(Image.open(tmp_path / "out.jpg")).astype(int) - smooth)
    assert error.max() < 30
    with Image.open(tmp_path / "out.jpg") as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3  # type: ignore[attr-defined] # JPEG's alone


def test_xmp_is_xml_that_others_read() -> None:
    from xml.etree import ElementTree

    texts = write_recipe(HARD)
    body = write_xmp(texts).decode().partition("?>")[2].rpartition("<?")[0]
    element = ElementTree.fromstring(body).find(".//{urn:sdedit:text/}sdedit")
    assert element is not None
    assert json.loads(element.text or "") == HARD


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_survive_xmp(text: str) -> None:
    assert read_xmp(write_xmp({"sdedit": text, "Software": "x"})) == {"sdedit": text, "Software": "x"}


FILE = '<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>'
BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("xmp", "message"),
    [
        (f"{BOMB}<text:sdedit>&b;</text:sdedit>", "its recipe is damaged"),
        (
            f"{FILE}<text:sdedit>&f;</text:sdedit>",
            "its recipe is damaged",
        ),
        ("<text:sdedit>[1]</text:sdedit>", "its recipe is damaged"),
        (f"<text:sdedit>{'[' * 40000}</text:sdedit>", "its recipe is damaged"),
        ("<text:sdedit>\xff</text:sdedit>", "its recipe is damaged"),
        ("<text:sdedit>{}", "carries no recipe: only images that sdedit wrote do"),
        ("<text:icc_profile>x</text:icc_profile>", "carries no recipe: only images that sdedit wrote do"),
        ("<text:transparency>{}</text:transparency>", "carries no recipe: only images that sdedit wrote do"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_recipe_in_xmp_is_data_from_outside(tmp_path: Path, suffix: str, xmp: str, message: str) -> None:
    path = tmp_path / f"bad{suffix}"
    Image.fromarray(RGB).save(path, xmp=xmp.encode("latin-1"))
    assert message in refusal(read_recipe, path)
    assert open_picture(path, "guide").image.size == (7, 5)


def test_xmp_of_another_size_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.webp"
    Image.fromarray(RGB).save(path, xmp=write_xmp({"sdedit": "{}"}) + b" " * (1 << 20))
    assert "carries no recipe" in refusal(read_recipe, path)


@pytest.mark.parametrize("key", ["transparency", "icc_profile", "gamma"])
def test_a_text_of_a_png_is_not_taken_for_what_pillow_notes(tmp_path: Path, key: str) -> None:
    save_image(Image.fromarray(RGB), tmp_path / "odd.png", {key: "1"})
    assert np.array_equal(np.asarray(open_picture(tmp_path / "odd.png", "guide").image), RGB)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"gamma": 0.45, "chromaticity": (0.3,) * 8}, "says nothing of gAMA, cHRM, which describe the guide's colours"),
        ({"cicp": b"\x09\x10\0\1", "icc_profile": SRGB}, "says nothing of cICP, which describe the guide's colours"),
        ({"gamma": 0.45, "srgb": 0}, ""),
        ({"gamma": 0.45, "icc_profile": SRGB}, ""),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_what_a_format_has_no_place_for_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, info: dict[str, object], said: str
) -> None:
    image = Image.fromarray(RGB)
    image.info.update(info)
    with caplog.at_level(logging.WARNING, "sdedit"):
        save_image(image, tmp_path / f"out{suffix}", {})
    assert said in caplog.text
    assert bool(caplog.records) == bool(said)


def test_a_grey_profile_does_not_go_into_a_webp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = Image.fromarray(GREY)
    image.info["icc_profile"] = grey_gamma_profile(1.8)
    save_image(image, tmp_path / "out.webp", {})
    assert "has no grey profile: the pixels of a WebP are RGB" in caplog.text


@pytest.mark.parametrize(("name", "most"), [("out.webp", 16383), ("out.jpg", 65500)])
def test_a_side_that_a_format_does_not_have(tmp_path: Path, name: str, most: int) -> None:
    save_image(Image.new("L", (most, 1)), tmp_path / name, {})
    before = (tmp_path / name).read_bytes()
    message = refusal(save_image, Image.new("L", (most + 1, 1)), tmp_path / name, {})
    assert message.startswith(f"output {tmp_path / name} cannot be written: ")
    assert message.endswith(f" has at most {most} pixels a side: use PNG")
    assert (tmp_path / name).read_bytes() == before


def test_a_recipe_that_a_jpeg_has_no_room_for(tmp_path: Path) -> None:
    message = refusal(save_image, Image.fromarray(RGB), tmp_path / "out.jpg", {"sdedit": "x" * 70000})
    assert message == f"output {tmp_path / 'out.jpg'} cannot be written: XMP data is too long"
    assert list(tmp_path.iterdir()) == []


def test_a_pillow_without_webp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    check_output(tmp_path / "out.jpg")
    assert "this installation of Pillow has no WebP" in refusal(check_output, tmp_path / "out.webp")


def test_webp_keeps_pixels_through_pillow_too() -> None:
    from sdedit.runtime.images.encoding import encode

    with Image.open(io.BytesIO(encode(Image.fromarray(RGB), "WebP", {}, "output"))) as image:
        assert np.array_equal(np.asarray(image), RGB)
