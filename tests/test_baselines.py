"""Laplacian blending: what it must be by theory, as a command on folders, and its mistakes."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sdedit.errors import ImageError
from sdedit.evaluation.baselines import command, laplacian_blend


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
    (tmp_path / "photos" / "a.png").rename(tmp_path / "photos" / "b.png")
    done = CliRunner().invoke(command, arguments)
    assert isinstance(done.exception, ImageError)
    assert "has no photo of guide a (1 lack one)" in str(done.exception)
