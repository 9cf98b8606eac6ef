"""Few steps: equality with the yardstick, the page, the views, and mistakes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdedit.evaluation.pareto import YARDSTICK_STEPS, Point, Yardstick, make_views, page
from sdedit.runtime.images.strokes import COLOURS


def point(distance: float, difference: float, steps: int = 9, sampler: str = "ddim", masked: bool = False) -> Point:
    return Point(masked, sampler, "fresh", steps, 0, distance, difference)


def yardstick(masked: bool = False) -> list[Point]:
    """A yardstick with means 0.2 and 0.3, whose seeds are 0.04 and 0.02 apart."""
    return [point(d, g, YARDSTICK_STEPS, "ancestral", masked) for d, g in ((0.18, 0.31), (0.22, 0.29))]


def test_equal_is_within_the_seeds_spread_in_both() -> None:
    measured = Yardstick.of(yardstick())
    assert measured.equals(point(0.2399, 0.3199))
    assert measured.equals(point(0.0, 0.0))
    assert not measured.equals(point(0.2401, 0.3))
    assert not measured.equals(point(0.2, 0.3201))


def test_the_page_names_the_fewest_steps_of_equal_quality() -> None:
    points = [*yardstick(), point(0.5, 0.3, 4), point(0.2, 0.3, 9), point(0.2, 0.3, 18), point(0.9, 0.3, 4, "euler")]
    text = page([*points, *yardstick(masked=True)], "about")
    assert "| ddim, fresh | 0.500 / 0.300 | **0.200 / 0.300** | **0.200 / 0.300** | 9 |" in text
    assert "| euler, fresh | 0.900 / 0.300 |  |  | none |" in text


def test_views_are_of_the_held_out_box_and_strokes_have_few_colours(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 100, (80, 200, 3), np.uint8)
    picture[:, 100:] += 100  # the held-out half is the brighter one
    Image.fromarray(picture).save(tmp_path / "picture.png")
    views = make_views(tmp_path / "picture.png", "100,0,200,80", (3, 16, 16), 3)
    assert views.strokes.shape == views.composites.shape == views.others.shape == (3, 3, 16, 16)
    assert views.others.min() >= 100 / 127.5 - 1
    assert all(len(np.unique(strokes.reshape(3, -1), axis=1).T) <= COLOURS for strokes in views.strokes)
    inside = views.mask > 0
    assert 0 < inside.mean() < 1
    assert np.array_equal(views.composites[..., inside], views.strokes[..., inside])
    assert not np.array_equal(views.composites[..., ~inside], views.strokes[..., ~inside])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "1,2"], "hold-out '1,2' is not LEFT,TOP,RIGHT,BOTTOM"),
        (["--hold-out", "0,0,80,80", "--bundle", "nowhere"], "nowhere"),
        (["--hold-out", "0,0,80,80", "--views", "0"], "0 is not in the range x>=2"),
        (["--hold-out", "0,0,80,80", "--json", "nowhere/p.json"], "cannot be written: nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    Image.new("RGB", (80, 80)).save(tmp_path / "picture.png")
    command = [sys.executable, "-m", "sdedit.evaluation.pareto", "picture.png", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


def test_it_runs_without_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import sdedit.evaluation.pareto"
    subprocess.run([sys.executable, "-c", script], check=True)
