"""mask_from alpha: transparent pixels may change, whatever holds the transparency, and opaque ones stay."""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import QUICK, Run, assert_mistake
from encoded_images import GREY, PALETTE, RGB, RGBA, chunk, png
from PIL import Image
from refusals import refusal
from stubs import stub_editor

from sdedit.errors import ImageError
from sdedit.runtime import Editor
from sdedit.runtime.images import open_mask, open_picture
from sdedit.runtime.recipe import read_recipe
from sdedit.runtime.settings import Settings

HEIGHT, WIDTH = 70, 90
PHOTO = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def alpha_with_a_hole() -> np.ndarray:
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[20:50, 30:60] = 0
    alpha[20:50, 60:64] = (192, 200, 254, 255)  # a soft edge
    return alpha


ALPHA = alpha_with_a_hole()
HOLED = Image.fromarray(np.dstack([PHOTO, ALPHA]))


@pytest.fixture(scope="module")
def editor() -> Iterator[Editor]:
    with stub_editor(lambda x, time: -x) as editor:
        yield editor


def pixels(editor: Editor, *sources: Any, **options: Any) -> np.ndarray:
    return np.asarray(editor.edit(*sources, steps=3, **options).images[0].pil)


def test_transparent_pixels_of_the_guide_change_and_opaque_ones_stay(editor: Editor) -> None:
    result = pixels(editor, HOLED, mask_from="alpha")
    assert result.shape == PHOTO.shape
    assert np.array_equal(result[ALPHA == 255], PHOTO[ALPHA == 255])
    assert (result[ALPHA == 0] != PHOTO[ALPHA == 0]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize(
    "options", [{}, {"feather": 0}, {"feather": 9, "context": 1}, {"tile": 64}, {"size": "native"}]
)
def test_alpha_is_the_mask_that_it_stands_for(editor: Editor, options: dict[str, Any]) -> None:
    """In the guide, and in the mask, it does what a mask of 255 - alpha does, with the colours as stored."""
    mask = Image.fromarray(255 - ALPHA)
    expected = pixels(editor, Image.fromarray(PHOTO), mask, **options)
    for sources in ((HOLED,), (np.dstack([PHOTO, ALPHA]),), (Image.fromarray(PHOTO), HOLED)):
        assert np.array_equal(pixels(editor, *sources, mask_from="alpha", **options), expected)


def keyed(depth: int, colour: int, key: int) -> bytes:
    """A PNG whose pixel [0, 1] has the key colour, and whose pixel [0, 0] differs from it by 1."""
    samples = np.full((2, 3) if colour == GREY else (2, 3, 3), key)
    samples[samples == key] = key - 2
    samples[0, 0], samples[0, 1] = key + 1, key
    return png(depth, colour, samples, chunk(b"tRNS", struct.pack(">H", key) * (1 if colour == GREY else 3)))


def with_alpha_of_16_bits() -> bytes:
    samples = np.full((2, 3, 4), 65535)
    samples[0, :2, 3] = (65534, 0)
    return png(16, RGBA, samples)


def with_a_palette(kind: str) -> bytes:
    image = Image.fromarray(np.uint8([[0, 1, 0], [0, 0, 0]]), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    file = io.BytesIO()
    image.save(file, kind, transparency=1)
    return file.getvalue()


@pytest.mark.parametrize(
    ("source", "near"),
    [
        (keyed(4, GREY, 5), 0),
        (keyed(8, GREY, 5), 0),
        (keyed(16, GREY, 30000), 0),
        (keyed(8, RGB, 5), 0),
        (keyed(16, RGB, 30000), 0),
        (with_alpha_of_16_bits(), 1),
        (
            png(
                2, PALETTE, np.array([[0, 1, 0], [0, 0, 0]]), chunk(b"PLTE", bytes(range(6))), chunk(b"tRNS", b"\xfe\0")
            ),
            1,
        ),
        (with_a_palette("PNG"), 0),
        (with_a_palette("GIF"), 0),
        (Image.fromarray(np.uint8([[[9, 254], [9, 0], [9, 255]], [[9, 255]] * 3]), "LA"), 1),
    ],
)
def test_every_kind_of_transparency_is_alpha(source: Any, near: int) -> None:
    """near: the mask's value, of 255, where a pixel is almost opaque, or almost of the key colour."""
    values, _ = open_mask(source, (3, 2), "alpha")
    assert values[0, 1] == 1
    assert round(float(values[0, 0]) * 255) == near
    assert open_picture(source, "guide", keep_alpha=True).alpha is not None
    assert "has transparent pixels: flatten it first" in refusal(open_picture, source, "guide")


def test_an_image_is_turned_upright_with_its_alpha(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    HOLED.save(tmp_path / "turned.png", exif=exif)
    picture = open_picture(tmp_path / "turned.png", "guide", keep_alpha=True)
    assert picture.alpha is not None
    assert np.array_equal(np.asarray(picture.alpha), np.rot90(ALPHA, -1))
    assert np.array_equal(np.asarray(picture.image), np.rot90(PHOTO, -1))


def test_what_is_refused(editor: Editor, tmp_path: Path) -> None:
    photo, opaque = Image.fromarray(PHOTO), Image.fromarray(np.dstack([PHOTO, np.full_like(ALPHA, 255)]))
    photo.save(tmp_path / "photo.png")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        (
            (tmp_path / "photo.png",),
            {},
            "guide photo.png has no alpha channel: with mask_from alpha, transparent pixels",
        ),
        ((photo, photo), {}, "mask has no alpha channel: with mask_from alpha, transparent pixels may change"),
        ((photo, np.ones((HEIGHT, WIDTH), np.uint8)), {}, "mask has no alpha channel"),
        ((photo, np.ones((HEIGHT, WIDTH), bool)), {}, "mask is an array of bool"),
        ((opaque,), {}, "guide has no transparent pixel: with mask_from alpha, transparent pixels may change"),
        ((photo, HOLED.crop((28, 18, 37, 27))), {}, "mask is 9x9 pixels, the guide 90x70"),
        ((HOLED, HOLED), {}, "guide has transparent pixels: flatten it first"),
        ((HOLED,), {"base": photo}, "base and mask_from alpha are both given"),
    ]
    for sources, options, message in cases:
        with pytest.raises(ImageError) as raised:
            editor.edit(*sources, mask_from="alpha", **options)
        assert message in str(raised.value)
    with pytest.raises(ImageError, match="mask_from 'colour' is not one of brightness, alpha"):
        Settings(mask_from="colour")  # type: ignore[arg-type]


def test_the_command_line_and_replay_take_it(run: Run, out: Path, tmp_path: Path) -> None:
    HOLED.save(tmp_path / "holed.png")
    arguments = ("edit", tmp_path / "holed.png", "--out", out, "--feather", 0, *QUICK)
    assert_mistake(run(*arguments), "has transparent pixels: flatten it first")
    assert run(*arguments, "--mask-from", "alpha")[0] == 0
    recipe = read_recipe(out)
    assert (recipe["mask"], recipe["mask_from"]) == (None, "alpha")
    assert run("replay", out) == (0, f"{out}: identical\n", "")
    result = np.asarray(Image.open(out))
    assert result.shape == PHOTO.shape
    assert np.array_equal(result[ALPHA == 255], PHOTO[ALPHA == 255])


def test_recipes_of_before_take_a_masks_brightness() -> None:
    recipe = Settings().recipe()
    del recipe["mask_from"]
    assert Settings.from_recipe(recipe).mask_from == "brightness"
