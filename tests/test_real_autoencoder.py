"""A trained autoencoder in the runtime: its codec, its previews, and the border of a mask, on a photo it never saw.

tests/autoencoder/ holds one of 0.25 million parameters that sdedit_ref.training.autoencoder trained on the Blue Marble
without Australia (README.md there has the command). The network beside it predicts hardly any v, so an edit from a
small t0 is the photo as the autoencoder has it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_sdedit
from conftest import Build
from PIL import Image

pytest.importorskip("diffusers", reason="the extra diffusers is not installed")

from sdedit.runtime import Editor
from sdedit.runtime.codec import LatentCodec
from sdedit_ref.training.diffusers_folders import write_model, write_scheduler

HERE = Path(__file__).parent
PHOTO = HERE.parent / "examples" / "australia.jpg"
SIDE = 128

PLACES = [(100, 40), (400, 60), (520, 300), (250, 380), (90, 250), (330, 200)]
"""Left and top of the views: coast, sea, desert, scrub."""


@pytest.fixture(scope="module")
def editor(build_once: Callable[[str, Build], Path]) -> Iterator[Editor]:
    def build(folder: Path) -> None:
        import torch
        from diffusers import AutoencoderKL, UNet2DModel

        torch.manual_seed(0)
        vae: Any = AutoencoderKL.from_pretrained(HERE / "autoencoder")
        write_model(vae, folder / "model" / "vae")
        network: Any = UNet2DModel(
            in_channels=4, out_channels=4, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
            down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), sample_size=SIDE // 8,
        )  # fmt: skip
        network.conv_out.weight.data.mul_(1e-3)  # export refuses a network that returns zeros
        network.conv_out.bias.data.zero_()
        write_model(network, folder / "model" / "unet")
        write_scheduler(folder / "model" / "scheduler")
        run_sdedit("export", folder / "model", "--out", folder / "bundle", "--name", "real", "--licence", "CC0")

    with Editor.open(build_once("real-autoencoder", build) / "bundle", engine="onnxruntime", threads=1) as opened:
        yield opened


def views() -> list[np.ndarray]:
    with Image.open(PHOTO) as photo:
        return [np.asarray(photo.crop((left, top, left + SIDE, top + SIDE))) for left, top in PLACES]


def through(editor: Editor, view: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The view as an edit leaves it that changes nothing but by the autoencoder and a little noise."""
    edit = editor.edit(view, mask, t0=0.01, steps=1, seed=0, size="guide", feather=0, context=4.0)
    return np.asarray(edit.images[0].pil)


def step_across(picture: np.ndarray, mask: np.ndarray) -> float:
    """Mean difference of the pixels on either side of the mask's border, of 255."""
    found = []
    for axis in (0, 1):
        border = np.diff(mask.astype(int), axis=axis) != 0
        found.append(np.abs(np.diff(picture.astype(int), axis=axis))[border])
    return float(np.concatenate(found).mean())


def cells(picture: np.ndarray) -> np.ndarray:
    """Mean colours of 8x8 pixels."""
    means: np.ndarray = picture.reshape(SIDE // 8, 8, SIDE // 8, 8, 3).mean(axis=(1, 3))
    return means


def square() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[36:92, 36:92] = 255
    return mask


def test_a_view_survives_the_codec(editor: Editor) -> None:
    errors = [np.square(through(editor, view) / 255.0 - view / 255.0).mean() for view in views()]
    assert -10 * np.log10(np.mean(errors)) > 24, "dB"


def test_the_border_of_a_mask_is_hardly_seen(editor: Editor) -> None:
    """Decoded pixels pasted beside kept ones show a step. Carried error takes more than half of what that adds."""
    mask = square()
    photo, pasted, carried = 0.0, 0.0, 0.0
    for view in views():
        photo += step_across(view, mask)
        pasted += step_across(np.where(mask[..., None] > 0, through(editor, view), view), mask)
        edited = through(editor, view, mask)
        assert np.array_equal(edited[mask == 0], view[mask == 0])
        carried += step_across(edited, mask)
    assert carried - photo < 0.5 * (pasted - photo)


def test_a_preview_has_the_photos_colours(editor: Editor) -> None:
    codec = editor._codec
    assert isinstance(codec, LatentCodec)
    errors = []
    for view in views():
        preview = codec.preview(codec.encode(Image.fromarray(view)))
        errors.append(np.abs(cells(np.asarray(preview)) - cells(view)).mean())
    assert np.mean(errors) < 30, "of 255; a map that was fitted to encoded clouds of colour has 61"
