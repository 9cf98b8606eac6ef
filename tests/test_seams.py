"""Carried error: the border of a mask where the decoder shifts colours, and where it does not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Build
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from PIL import Image
from tiny_latent import PROMPT, latent_bundle, write_latent_bundle

from sdedit.runtime import Editor
from sdedit.runtime.bundle import DECODER, MANIFEST, write_manifest
from sdedit.runtime.images import carry_error
from sdedit.runtime.images.seams import smooth

SHIFT = 0.1
"""Constant error of a decoder, in units of [-1, 1]."""

RADIUS = 4

# Arrays


def two_pictures(shift: np.ndarray | int) -> tuple[Image.Image, Image.Image, np.ndarray]:
    """A random picture decoded with that error, the picture, and a mask of what is kept: all but a square."""
    original = np.random.default_rng(0).integers(60, 190, (48, 64, 3))
    kept = np.ones((48, 64), bool)
    kept[12:36, 16:48] = False
    return *(Image.fromarray(each.astype(np.uint8)) for each in (original + shift, original)), kept


def errors(decoded: Image.Image, original: Image.Image, kept: np.ndarray) -> np.ndarray:
    """Error after carrying: int [H, W, 3]."""
    found: np.ndarray = np.asarray(carry_error(decoded, original, kept, RADIUS)).astype(int) - np.asarray(original)
    return found


def test_the_mean_of_three_boxes_is_that_of_loops() -> None:
    values = np.random.default_rng(0).random((9, 11, 2)).astype(np.float32)
    expected = values
    for axis in (0, 1):
        for _ in range(3):
            padded = np.pad(expected, [(2, 2) if each == axis else (0, 0) for each in range(3)], mode="edge")
            windows = [np.take(padded, range(i, i + values.shape[axis]), axis=axis) for i in range(5)]
            expected = np.mean(windows, axis=0)
    assert np.allclose(smooth(values, 2), expected, atol=1e-5)
    assert np.array_equal(smooth(values, 0), values)


def test_a_constant_error_goes_at_the_border_and_stays_far_from_it() -> None:
    decoded, original, kept = two_pictures(20)
    left = errors(decoded, original, kept)
    assert np.abs(left[kept]).max() <= 1
    border = left[24, [16, 47]]  # the first pixel inside has a little less than one half of kept ones around
    assert border.max() <= 5
    assert (left[24, 16 + 3 * RADIUS : 48 - 3 * RADIUS] == 20).all()
    assert (np.diff(left[24, 16:32].mean(axis=1)) >= -1).all()  # it grows smoothly between


def test_a_decoder_without_error_is_left_alone() -> None:
    assert (errors(*two_pictures(0)) == 0).all()


def test_details_are_not_smeared_over_the_border() -> None:
    """An error that changes from pixel to pixel is no shift: its mean is small."""
    noise = np.random.default_rng(1).integers(-20, 21, (48, 64, 3))
    decoded, original, kept = two_pictures(noise)
    carried = errors(decoded, original, kept) - noise
    assert np.abs(carried[~kept]).mean() < 1
    assert np.abs(carried).max() < 12


@pytest.mark.parametrize("keeps", [True, False])
def test_pictures_without_a_border(keeps: bool) -> None:
    decoded, original, kept = two_pictures(20)
    left = errors(decoded, original, np.full_like(kept, keeps))
    assert (left == (0 if keeps else 20)).all()


def test_a_grey_picture() -> None:
    grey = Image.new("L", (16, 16), 100)
    assert carry_error(grey, Image.new("L", (16, 16), 90), np.ones((16, 16), bool), 2).getextrema() == (90, 90)


# Edits


@pytest.fixture(scope="module")
def editors(
    build_once: Callable[[str, Build], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Editor, Editor]]:
    """An exact decoder, and one that adds SHIFT."""
    exact = latent_bundle(build_once)
    folder = write_latent_bundle(tmp_path_factory.mktemp("shifting") / "bundle")
    model = onnx.load(folder / DECODER)
    (node,) = model.graph.node
    node.output[0] = "colours"
    model.graph.node.append(helper.make_node("Add", ["colours", "shift"], ["image"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([SHIFT]), "shift"))
    onnx.save(model, folder / DECODER)
    write_manifest(folder, json.loads((folder / MANIFEST).read_text()))
    with (
        Editor.open(exact, engine="onnxruntime", threads=1) as one,
        Editor.open(folder, engine="onnxruntime", threads=1) as other,
    ):
        yield one, other


def photo(height: int, width: int) -> np.ndarray:
    """Colours that leave room for the shift."""
    return np.random.default_rng(2).integers(80, 170, (height, width, 3)).astype(np.uint8)


def edited(editor: Editor, picture: np.ndarray, mask: np.ndarray, **options: Any) -> np.ndarray:
    edit = editor.edit(picture, mask, prompt=PROMPT, seed=4, steps=2, **options)
    return np.asarray(edit.images[0].pil).astype(int)


def test_a_shift_is_gone_at_the_border_of_an_edit(editors: tuple[Editor, Editor]) -> None:
    picture, mask = photo(64, 64), np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    exact, shifted = (edited(editor, picture, mask, t0=0.1, guidance=1, feather=0) for editor in editors)
    shift = SHIFT * 127.5
    middle, border = (shifted[32, at] - exact[32, at] for at in (slice(26, 38), [16, 47]))
    assert np.abs(middle - shift).max() <= 1
    assert np.abs(border).max() <= 0.35 * shift
    assert np.array_equal(shifted[mask == 0], picture[mask == 0])


def test_a_picture_without_a_mask_is_as_decoded(editors: tuple[Editor, Editor]) -> None:
    made = [editor.edit(photo(32, 32), prompt=PROMPT, seed=4, steps=2, t0=0.1, guidance=1) for editor in editors]
    exact, shifted = (np.asarray(edit.images[0].pil).astype(int) for edit in made)
    assert np.abs(shifted - exact - SHIFT * 127.5)[(exact > 0) & (exact < 240)].max() <= 1


@given(
    height=st.integers(9, 50),
    width=st.integers(9, 50),
    box=st.tuples(*[st.integers(0, 60)] * 4),
    size=st.sampled_from([None, "native", 24, "guide"]),
    context=st.sampled_from([0.0, 0.25, 2.0]),
    feather=st.sampled_from([0, 4]),
    value=st.sampled_from([1.0, 0.7]),
)
def test_kept_bytes_are_the_photos(
    editors: tuple[Editor, Editor],
    height: int,
    width: int,
    box: tuple[int, int, int, int],
    size: Any,
    context: float,
    feather: int,
    value: float,
) -> None:
    picture, mask = photo(height, width), np.zeros((height, width), np.float32)
    top, left, rows, columns = box
    mask[top % height : top % height + rows + 1, left % width : left % width + columns + 1] = value
    after = edited(editors[1], picture, mask, size=size, context=context, feather=feather, t0=0.5)
    assert np.array_equal(after[mask == 0], picture[mask == 0])
    assert after.shape == picture.shape
