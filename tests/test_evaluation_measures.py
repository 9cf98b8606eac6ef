"""Measures of edits: against the implementations that the field trusts, and against what they must be by theory."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from sdedit.errors import ImageError
from sdedit.evaluation.pairs import inside, l2_each, outside, psnr_each, rms_each, ssim_each
from sdedit.evaluation.sets import fid, kid, precision_recall, squared_mmd

_SPEC = importlib.util.spec_from_file_location(
    "golden_make_evaluation", Path(__file__).parent / "golden" / "make_evaluation.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
_MAKE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MAKE)
some_features, some_images = _MAKE.some_features, _MAKE.some_images

GOLDEN = json.loads((Path(__file__).parent / "golden" / "evaluation.json").read_text(encoding="utf-8"))
SETS, PAIRS = GOLDEN["sets"], GOLDEN["pairs"]


def to_float(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(127.5) - 1


def a_pair() -> tuple[np.ndarray, np.ndarray]:
    """The pair of make_evaluation.py."""
    a = some_images(0)
    return to_float(a), to_float(np.clip(a.astype(int) + some_images(1) // 4, 0, 255).astype(np.uint8))


def test_set_measures_are_those_of_the_trusted_implementations() -> None:
    a, b = some_features(0, 120), some_features(1, 120, shift=0.3)
    # float64 throughout; clean-fid's root of a product of matrices loses half of the digits
    assert fid(a, b) == pytest.approx(SETS["fid_clean_fid"], rel=1e-7)
    assert squared_mmd(a, b) == pytest.approx(SETS["mmd_torch_fidelity"], rel=1e-10)
    assert squared_mmd(a, b) == pytest.approx(SETS["mmd_torchmetrics"], rel=1e-10)
    assert squared_mmd(a, b) == pytest.approx(SETS["kid_clean_fid"], rel=1e-10)
    assert precision_recall(a, b) == pytest.approx((SETS["precision"], SETS["recall"]), abs=1e-6)  # shares in float32


def test_pair_measures_are_those_of_scikit_image() -> None:
    a, b = a_pair()
    # pixels are float32 of u / 127.5 - 1: off by 1e-7 of a range in which differences are above 1e-3
    assert psnr_each(a, b) == pytest.approx(PAIRS["psnr"], abs=1e-4)
    assert ssim_each(a, b) == pytest.approx(PAIRS["ssim"], abs=1e-5)


def test_kid_is_unbiased_and_says_its_spread() -> None:
    a, b = some_features(2, 300), some_features(3, 300)
    same = kid(a, b, blocks=50, block=100)
    assert abs(same.mean) < same.spread  # 300 rows hold three blocks of 100: its own deviation is a third, about
    far = kid(a, b + np.float32(1), blocks=50, block=100)
    assert far.mean > 10 * far.spread
    assert kid(a, b, blocks=2, block=100) == kid(a, b, blocks=2, block=100)


def test_sets_are_near_themselves() -> None:
    a = some_features(4, 60)
    assert fid(a, a) == pytest.approx(0, abs=1e-9)
    assert precision_recall(a, a) == (1, 1)
    assert precision_recall(a, a + np.float32(100)) == (0, 0)
    shifted = fid(a, a + np.float32(2))
    assert shifted == pytest.approx(4 * a.shape[1], rel=1e-5)  # |shift|^2, the covariances being equal


def test_two_sides_of_a_mask_make_the_whole() -> None:
    a, b = a_pair()
    masks = np.zeros(a[:, 0].shape, bool)
    masks[:, 5:20, 7:30] = True
    sides = [l2_each(side(b, a, masks), a) for side in (outside, inside)]
    assert np.square(sides).sum(0) == pytest.approx(np.square(l2_each(b, a)))
    kept = np.where(masks[:, None], b, a)
    assert (l2_each(outside(kept, a, masks), a) == 0).all()
    assert (ssim_each(outside(kept, a, masks), a) == 1).all()
    assert (psnr_each(kept, a, ~masks) == np.inf).all()
    assert np.isfinite(psnr_each(kept, a, masks)).all()
    assert rms_each(a, b) == pytest.approx(2 * l2_each(a, b) / (3 * 32 * 40) ** 0.5)


def test_mistakes_are_one_line() -> None:
    a = some_features(5, 10)
    with pytest.raises(ImageError, match="48 and 12 values"):
        fid(a, a[:, :12])
    with pytest.raises(ImageError, match="NaN"):
        kid(a, np.full_like(a, np.nan))
    with pytest.raises(ImageError, match="at least 2 images in each set, not 1 and 10"):
        kid(a[:1], a)
    with pytest.raises(ImageError, match="more than 3 images in each set, not 3 and 10"):
        precision_recall(a[:3], a)
