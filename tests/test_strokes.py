"""Stroke paintings from photos, as a function and as a command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, assert_mistake
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdedit.runtime.images.strokes import brush, stroke_painting


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Large soft shapes with fine noise on them."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (4, 5, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(small).astype(int) + random.integers(-20, 21, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@settings(max_examples=25, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    median=st.integers(0, 30).map(lambda n: 2 * n + 1),
    colours=st.integers(2, 20),
    seed=st.integers(0, 99),
)
def test_a_painting_has_the_photos_size_and_few_flat_colours(
    width: int, height: int, median: int, colours: int, seed: int
) -> None:
    painting = stroke_painting(photo(width, height, seed), median, colours)
    assert (painting.mode, painting.size) == ("RGB", (width, height))
    assert len(painting.getcolors(256) or ()) <= colours
    assert painting.tobytes() == stroke_painting(photo(width, height, seed), median, colours).tobytes()


@pytest.mark.parametrize(
    ("median", "shorter", "expected"),
    [(23, 256, 23), (23, 128, 11), (23, 64, 5), (23, 8, 1), (1, 256, 1), (255, 256, 255), (5, 200, 3)],
)
def test_the_brush_is_scaled_to_the_nearest_odd_size(median: int, shorter: int, expected: int) -> None:
    assert brush(median, shorter) == expected
    assert abs(brush(median, shorter) - median * shorter / 256) <= 1


def test_a_median_of_256_pixels_is_the_filter_itself() -> None:
    """Nothing is resized there: every colour is one of the median's palette, and shapes below the brush are gone."""
    picture = Image.new("RGB", (256, 256), (200, 180, 120))
    picture.paste((10, 20, 80), (0, 0, 128, 256))
    picture.paste((255, 0, 0), (190, 100, 200, 110))  # ten pixels: thinner than the brush
    assert set(stroke_painting(picture, 23, 6).get_flattened_data()) == {(200, 180, 120), (10, 20, 80)}
    assert (255, 0, 0) in set(stroke_painting(picture, 1, 6).get_flattened_data())


def test_a_larger_photo_is_painted_with_the_same_strokes() -> None:
    """Its painting, reduced, differs only along the edges of the strokes."""
    large = photo(768, 512)
    small = large.resize((384, 256), Image.Resampling.BOX)
    a = np.asarray(stroke_painting(large).resize((384, 256), Image.Resampling.BOX)).astype(int)
    b = np.asarray(stroke_painting(small)).astype(int)
    assert (np.abs(a - b).max(axis=2) > 12).mean() < 0.1


def test_more_colours_are_closer_to_the_photo() -> None:
    picture = photo(128, 128)
    errors = [
        np.square(np.asarray(picture, np.float64) - np.asarray(stroke_painting(picture, 5, colours), np.float64)).mean()
        for colours in (2, 6, 16)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_the_palette_keeps_colours_apart() -> None:
    """A small sea beside much land of many colours stays blue."""
    ramp = np.linspace(0, 1, 128)[:, None, None] * np.array([90, 60, 20]) + np.array([90, 70, 40])
    land = np.broadcast_to(ramp, (128, 128, 3)).astype(np.uint8)
    picture = Image.fromarray(land)
    picture.paste((20, 60, 140), (0, 108, 128, 128))
    assert stroke_painting(picture).getpixel((64, 124)) == (20, 60, 140)


def test_the_command_writes_a_guide(run: Run, tmp_path: Path, out: Path) -> None:
    photo(90, 70).save(tmp_path / "photo.jpg", quality=95)
    code, stdout, stderr = run("strokes", tmp_path / "photo.jpg", "--out", out, "--colours", 3)
    assert (code, stderr) == (0, "")
    assert stdout == f"{out}: 90x70, 3 colours\n"
    with Image.open(out) as painting:
        assert len(painting.convert("RGB").getcolors(256) or ()) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--median", "22"), "median 22 is not an odd number in 1..255"),
        (("--median", "257"), "median 257 is not an odd number in 1..255"),
        (("--colours", "1"), "colours 1 is not in 2..256"),
        (("--colours", "257"), "colours 257 is not in 2..256"),
    ],
)
def test_wrong_parameters_are_one_line(
    run: Run, guide: Path, out: Path, arguments: tuple[str, str], message: str
) -> None:
    assert_mistake(run("strokes", guide, "--out", out, *arguments), message)
    assert not out.exists()


def test_wrong_files_are_one_line(run: Run, tmp_path: Path, guide: Path, out: Path) -> None:
    (tmp_path / "no.png").write_text("text")
    assert_mistake(run("strokes", tmp_path / "no.png", "--out", out), "no.png is not an image of format PNG")
    assert_mistake(run("strokes", tmp_path / "none.png", "--out", out), "none.png cannot be read")
    assert_mistake(run("strokes", guide, "--out", guide), "would overwrite an input")
    assert not out.exists()


def test_strokes_need_no_torch(tmp_path: Path, guide: Path) -> None:
    script = "import sys; sys.modules['torch'] = None; from sdedit.cli import main; main()"
    out = tmp_path / "strokes.png"
    done = subprocess.run(
        [sys.executable, "-c", script, "strokes", guide, "--out", out], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert out.exists()
