"""The yardstick of few steps: who is its equal, what the page says, and that strokes are strokes."""

from pathlib import Path

import numpy as np
from PIL import Image

from sdedit.evaluation.pareto import YARDSTICK_STEPS, Point, Yardstick, make_views, page
from sdedit.runtime.images.strokes import COLOURS


def point(distance: float, difference: float, steps: int = 9, sampler: str = "ddim", masked: bool = False) -> Point:
    return Point(masked, sampler, "fresh", steps, 0, distance, difference)


def yardstick(masked: bool = False) -> list[Point]:
    """Means 0.2 and 0.3; the seeds are 0.04 and 0.02 apart."""
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
    picture[:, 100:] += 100  # the held-out half is told by its brightness
    Image.fromarray(picture).save(tmp_path / "picture.png")
    views = make_views(tmp_path / "picture.png", "100,0,200,80", 16, 3)
    assert views.strokes.shape == views.composites.shape == views.others.shape == (3, 16, 16, 3)
    assert views.others.min() >= 100
    assert all(len(np.unique(strokes.reshape(-1, 3), axis=0)) <= COLOURS for strokes in views.strokes)
    inside = views.mask > 0
    assert 0 < inside.mean() < 1
    assert np.array_equal(views.composites[:, inside], views.strokes[:, inside])
    assert not np.array_equal(views.composites[:, ~inside], views.strokes[:, ~inside])
