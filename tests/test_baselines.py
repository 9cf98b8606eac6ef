"""Laplacian and Poisson blending: what it must be by theory, as a command on folders, and its mistakes."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdedit.errors import ImageError
from sdedit.evaluation.baselines import command
from sdedit.evaluation.blending import laplacian_blend, poisson_blend


def some_pair(height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (2, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize("size", [(48, 64), (33, 40), (8, 8)])
def test_a_mask_of_one_value_gives_one_of_the_images(size: tuple[int, int]) -> None:
    a, b = some_pair(*size)
    # levels are differences of float64 that are added again
    assert laplacian_blend(a, b, np.ones(size)) == pytest.approx(a, abs=1e-6)
    assert laplacian_blend(a, b, np.zeros(size)) == pytest.approx(b, abs=1e-6)
    assert laplacian_blend(a, a, np.eye(*size)) == pytest.approx(a, abs=1e-6)


def test_a_step_becomes_a_slope_and_detail_keeps_its_edge() -> None:
    """Flat sides: only the coarsest octave differs, so the border is wide. It falls all the way."""
    ones = np.ones((1, 64, 64), np.float32) * np.float32(0.5)
    mask = np.zeros((64, 64))
    mask[:, :32] = 1
    row = laplacian_blend(ones, -ones, mask)[0, 32]
    assert (np.diff(row) <= 1e-6).all()
    assert row[0] > 0.4
    assert row[-1] < -0.4
    assert np.count_nonzero(np.abs(row) < 0.4) > 8
    detail = np.zeros((1, 64, 64), np.float32)
    detail[:, ::2] = 0.5
    detail -= detail.mean()
    fine = np.abs(np.diff(laplacian_blend(detail, np.zeros_like(detail), mask)[0], axis=0)).mean(0)
    assert fine[:28].min() > 10 * fine[36:].max()


@pytest.fixture(params=[0, 1, 2])
def blob(request: pytest.FixtureRequest) -> np.ndarray:
    """A mask [9, 11] of several parts that touches the border, of one pixel, and of all but one."""
    if request.param == 1:
        return np.pad([[1.0]], ((4, 4), (5, 5)))
    mask = (np.random.default_rng(3).random((9, 11)) < 0.6).astype(float)
    return mask if request.param == 0 else (np.arange(99) != 40).reshape(9, 11).astype(float)


def test_poisson_blending_is_a_direct_solve_of_its_equations(blob: np.ndarray) -> None:
    """Equation 7 of the paper, pixel by pixel, and numpy's dense solver."""
    pasted, photo = 0.2 * some_pair(9, 11).astype(np.float64)
    places = [(y, x) for y in range(9) for x in range(11) if blob[y, x]]
    matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), 3))
    for row, (y, x) in enumerate(places):
        for place in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            if 0 <= place[0] < 9 and 0 <= place[1] < 11:
                matrix[row, row] += 1
                if place in places:
                    right[row] += pasted[:, y, x] - pasted[(slice(None), *place)]
                    matrix[row, places.index(place)] -= 1
                else:
                    right[row] += photo[(slice(None), *place)]
    wanted = photo.copy()
    for place, value in zip(places, np.linalg.solve(matrix, right), strict=True):
        wanted[(slice(None), *place)] = value
    found = poisson_blend(pasted, photo, blob)
    assert found == pytest.approx(np.clip(wanted, -1, 1), abs=1e-6)  # the result is float32
    assert np.array_equal(found[:, blob == 0], photo.astype(np.float32)[:, blob == 0])


def test_poisson_blending_takes_on_the_level_around_it() -> None:
    """The level of what was pasted does not matter, its detail does; a composite is not its own solution."""
    pasted, photo = some_pair() / 3
    mask = np.zeros((48, 64))
    mask[10:30, 20:50] = 1
    found = poisson_blend(pasted, photo, mask)
    assert poisson_blend(pasted + np.float32(0.3), photo, mask) == pytest.approx(found, abs=1e-6)
    composite = np.where(mask > 0, pasted, photo)
    assert poisson_blend(composite, photo, mask) == pytest.approx(found, abs=1e-6)
    assert np.abs(found - composite).max() > 0.1
    assert np.array_equal(poisson_blend(pasted, photo, 0 * mask), photo)
    with pytest.raises(ImageError, match="it edits the whole picture"):
        poisson_blend(pasted, photo, 0 * mask + 1)


def test_folders_are_blended(tmp_path: Path) -> None:
    pair = np.rint((some_pair() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    masks = np.full((48, 64), 255, np.uint8)
    for name, pixels in (("guides", pair[0]), ("photos", pair[1]), ("masks", masks)):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    arguments = [part for name in ("guides", "photos", "masks") for part in (f"--{name}", str(tmp_path / name))]
    arguments += ["--out", str(tmp_path / "out")]
    done = CliRunner().invoke(command, arguments)
    assert (done.exit_code, done.output) == (0, "")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), pair[0])
    masks[:, :32] = 0
    Image.fromarray(masks).save(tmp_path / "masks" / "a.png")
    assert CliRunner().invoke(command, [*arguments, "--method", "poisson"]).exit_code == 0
    blended = np.asarray(Image.open(tmp_path / "out" / "a.png"))
    assert np.array_equal(blended[:, :32], pair[1][:, :32])
    assert not np.array_equal(blended[:, 32:], pair[0][:, 32:])
    (tmp_path / "photos" / "a.png").rename(tmp_path / "photos" / "b.png")
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, ImageError)
    assert "has no photo of guide a (1 lack one)" in str(done.exception)
