"""Inpainting networks of latents: they are told what is kept, and the photo keeps its bytes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Build
from PIL import Image
from tiny_latent import PROMPT, codec, latent_bundle, picture, write_inpainting_bundle

from sdedit.errors import BundleError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import MANIFEST, Bundle, read_bundle, write_manifest
from sdedit.runtime.checks.parity import measure_error
from sdedit.runtime.codec import to_state
from sdedit.runtime.engines import installed_engines, load_engine


@pytest.fixture(scope="module")
def bundle(build_once: Callable[[str, Build], Path]) -> Bundle:
    return latent_bundle(build_once)


@pytest.fixture(scope="module")
def inpainting(build_once: Callable[[str, Build], Path], bundle: Bundle) -> Bundle:
    return read_bundle(build_once("tiny-inpainting", lambda folder: write_inpainting_bundle(folder / "it")) / "it")


@pytest.mark.parametrize("engine", installed_engines())
def test_engines_are_told_what_is_kept(inpainting: Bundle, engine: str) -> None:
    assert measure_error(inpainting, load_engine(inpainting, engine, "float32", 1)) < 1e-6


def test_an_inpainting_network_is_told_the_mask_and_the_kept_part(inpainting: Bundle, bundle: Bundle) -> None:
    photo = picture(16, 24)
    edited = np.zeros((16, 24), bool)
    edited[5, 9] = edited[12:, 16:] = True
    known = codec(inpainting).conditions(photo, edited)["known"]
    assert (known.shape, known.dtype) == ((5, 4, 6), np.float32)
    assert np.argwhere(known[0]).tolist() == [[1, 2], [3, 4], [3, 5]]
    masked = to_state(photo)
    masked[:, edited] = 0
    assert np.allclose(known[1:], codec(inpainting).encode_values(masked), atol=1e-6)
    assert not known[1:, 3, 4:].any()
    assert codec(bundle).conditions(photo, edited) == {}


def test_the_cells_around_an_edit_are_blended_too(inpainting: Bundle) -> None:
    mask = np.zeros((32, 32), np.float32)
    mask[9, 17] = 0.5
    cells = codec(inpainting).mask(mask)
    assert np.argwhere(cells).tolist() == [[row, column] for row in (1, 2, 3) for column in (3, 4, 5)]
    assert set(cells.ravel()) == {0, 0.5}


@pytest.mark.parametrize("options", [{}, {"size": "40x48", "tile": 32}, {"steps": 1}])
def test_the_network_sees_what_is_kept_and_the_photo_keeps_its_bytes(
    inpainting: Bundle, options: dict[str, Any]
) -> None:
    photo, mask = picture(), np.zeros((40, 56), np.uint8)
    mask[6:30, 10:40] = 255
    other = np.asarray(photo).copy()
    other[mask == 255] = 128
    with Editor.open(inpainting, engine="onnxruntime", threads=1) as editor:
        made = [
            np.asarray(editor.edit(guide, mask, prompt=PROMPT, feather=0, seed=1, **options).images[0].pil)
            for guide in (photo, Image.fromarray(other), Image.fromarray(255 - np.asarray(photo)))
        ]
    for guide, result in zip((photo, photo, Image.fromarray(255 - np.asarray(photo))), made, strict=True):
        assert np.array_equal(result[mask == 0], np.asarray(guide)[mask == 0])
    assert (made[0] != made[2])[mask == 255].any()


def test_an_input_of_the_kept_part_has_the_states_size(inpainting: Bundle, tmp_path: Path) -> None:
    folder = write_inpainting_bundle(tmp_path / "bundle")
    fields = json.loads((folder / MANIFEST).read_text())
    fields["inputs"]["known"]["shape"] = [5, 4, 8]
    write_manifest(folder, fields)
    with pytest.raises(BundleError, match=r"inputs\.known\.shape is not \[5, 8, 8\]"):
        read_bundle(folder)
