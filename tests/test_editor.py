"""Editor: the shipped model, images and masks of any size, several images, threads, and what goes wrong in mid-edit."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from stubs import stub_editor

from sdedit import __version__
from sdedit.errors import EngineError, ImageError, PlanError
from sdedit.runtime import Editor

RNG = np.random.default_rng(0)
GUIDE = RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def editor() -> Editor:
    return Editor.open(engine="onnxruntime", threads=2)


def pixels(editor: Editor, *arguments: object, **options: object) -> list[np.ndarray]:
    return [np.asarray(image.pil) for image in editor.edit(*arguments, **options).images]  # type: ignore[arg-type]


def test_the_shipped_model_turns_strokes_into_something_else_of_the_same_colours(editor: Editor) -> None:
    strokes = np.zeros((64, 64, 3), np.uint8)
    strokes[:32], strokes[32:] = (20, 60, 130), (150, 120, 75)
    (result,) = pixels(editor, strokes, t0=0.4, steps=8)
    assert result.shape == (64, 64, 3)
    assert result.dtype == np.uint8
    sea, land = result[:28].reshape(-1, 3).mean(0), result[36:].reshape(-1, 3).mean(0)
    assert sea[2] > sea[0] + 40
    assert land[0] > land[2] + 20
    assert result[:28].std(axis=(0, 1)).max() > 2  # texture, not the flat stroke


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(editor: Editor) -> None:
    first, again, other = (pixels(editor, GUIDE, steps=4, seed=seed)[0] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_are_made_of_their_own_noise_whatever_the_slots() -> None:
    one, three = (Editor.open(threads=2, slots=slots) for slots in (1, 3))
    alone = pixels(one, GUIDE, steps=3, images=4, seed=9)
    together = pixels(three, GUIDE, steps=3, images=4, seed=9)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len({image.tobytes() for image in alone}) == 4
    assert np.array_equal(alone[0], pixels(one, GUIDE, steps=3, seed=9)[0])


@settings(max_examples=15, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    box=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    keep=st.sampled_from(["fresh", "fixed"]),
    context=st.sampled_from([0.0, 0.25, 2.0]),
)
def test_outside_the_mask_every_byte_of_a_photo_of_any_size_stays(
    width: int, height: int, box: tuple[float, ...], keep: str, context: float
) -> None:
    editor = stub_editor(lambda x, time: -x)
    photo = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    left, right = sorted(round(part * width) for part in box[:2])
    top, bottom = sorted(round(part * height) for part in box[2:])
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    mask[height // 2, width // 2] = True
    (result,) = pixels(editor, photo, mask, steps=2, keep=keep, context=context)
    assert result.shape == photo.shape
    assert np.array_equal(result[~mask], photo[~mask])


def test_outside_the_mask_every_byte_of_twelve_megapixels_stays(editor: Editor) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (3000, 4000, 3)).astype(np.uint8)
    mask = np.zeros((3000, 4000), bool)
    mask[1200:1500, 2100:2700] = True
    (result,) = pixels(editor, photo, mask, steps=3)
    assert np.array_equal(result[~mask], photo[~mask])
    assert (result[mask] != photo[mask]).any(axis=1).mean() > 0.9


def test_a_mask_changes_what_it_covers(editor: Editor) -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255
    (result,) = pixels(editor, GUIDE, mask, steps=4, feather=0)
    assert (result[mask == 255] != GUIDE[mask == 255]).any(axis=1).mean() > 0.9
    assert np.array_equal(result[mask == 0], GUIDE[mask == 0])


def test_a_grey_mask_changes_less_than_a_white_one(editor: Editor) -> None:
    white, grey = (pixels(editor, GUIDE, np.full((64, 64), m), steps=8, t0=0.8)[0] for m in (1.0, 0.2))
    distance = [np.abs(result.astype(float) - GUIDE).mean() for result in (white, grey)]
    assert distance[1] < distance[0] / 2


def test_the_recipe_says_all_that_made_the_image(editor: Editor, tmp_path: Path) -> None:
    guide = tmp_path / "guide.png"
    Image.fromarray(GUIDE).save(guide)
    result = editor.edit(guide, np.ones((64, 64), bool), sampler="dpmpp_2m", steps=3, seed=2**64 - 1, images=2)
    recipe = result.images[1].recipe
    assert recipe["guide"]["name"] == "guide.png"
    assert len(recipe["guide"]["sha256"]) == 64
    assert recipe["mask"]["name"] is None
    assert (recipe["sampler"], recipe["eta"], recipe["steps"], recipe["seed"]) == ("dpmpp_2m", 0.0, 3, 2**64 - 1)
    assert (recipe["image"], recipe["images"]) == (1, 2)
    assert recipe["engine"]["name"] == "onnxruntime"
    assert recipe["engine"]["precision"] == "float32"
    assert recipe["engine"]["version"]
    assert (recipe["version"], recipe["device"], recipe["kernels"]) == (__version__, "cpu", "c")
    assert (recipe["t0"], recipe["keep"], recipe["repeats"], recipe["clip"]) == (0.5, "fresh", 1, 1.0)
    assert (recipe["fit"], recipe["context"]) == ("crop", 0.25)
    assert recipe["engine"]["threads"] == 2
    assert recipe["bundle"] == {"name": "earth64", "sha256": editor.bundle.sha256}
    assert result.timings["evaluations"] == 6


def test_numpy_numbers_are_numbers(editor: Editor, tmp_path: Path) -> None:
    result = editor.edit(GUIDE, t0=np.float32(0.5), steps=np.int64(2), seed=np.uint64(2**64 - 1))  # type: ignore[arg-type]
    result.images[0].save(tmp_path / "out.png")
    assert json.loads(Image.open(tmp_path / "out.png").text["sdedit"])["seed"] == 2**64 - 1  # type: ignore[attr-defined]


def test_a_colour_profile_goes_with_its_colours(editor: Editor, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for mode, expected in (("RGB", profile), ("CMYK", None)):
        photo = Image.fromarray(GUIDE).convert(mode)
        photo.info["icc_profile"] = profile
        for mask in (None, np.ones((64, 64))):
            editor.edit(photo, mask, steps=1).images[0].save(tmp_path / "out.png")
            assert Image.open(tmp_path / "out.png").info.get("icc_profile") == expected


def test_threads_may_share_an_editor(editor: Editor) -> None:
    expected = [pixels(editor, GUIDE, steps=3, seed=seed)[0] for seed in range(6)]
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        results[seed] = pixels(editor, GUIDE, steps=3, seed=seed)[0]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[seed], expected[seed]) for seed in range(6))


def test_after_a_failure_in_mid_edit_the_editor_goes_on() -> None:
    calls = []

    def network(x: np.ndarray, time: float) -> np.ndarray:
        calls.append(time)
        if len(calls) == 2:
            raise EngineError("the engine stumbled")
        return -x

    editor = stub_editor(network, slots=2)
    with pytest.raises(EngineError, match="stumbled"):
        editor.edit(GUIDE, steps=3, images=2)
    after = pixels(editor, GUIDE, steps=3)[0]
    assert np.array_equal(after, pixels(stub_editor(lambda x, time: -x), GUIDE, steps=3)[0])


def test_a_result_that_is_not_finite_is_an_error_not_an_image() -> None:
    with pytest.raises(EngineError, match="not finite"):
        stub_editor(lambda x, time: x * np.float32(np.nan)).edit(GUIDE, steps=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"seed": -1}, PlanError, r"seed -1 is not in 0..2\^64-1"),
        ({"seed": 2**64}, PlanError, "seed 18446744073709551616"),
        ({"images": 0}, PlanError, "images 0"),
        ({"steps": 501}, PlanError, "steps 501"),
        ({"steps": 2.5}, PlanError, "steps 2.5 is not an integer"),
        ({"seed": 3.7}, PlanError, "seed 3.7 is not an integer"),
        ({"seed": None}, PlanError, "seed None is not an integer"),
        ({"t0": "half"}, PlanError, "t0 'half' is not a number"),
        ({"fit": "banana"}, ImageError, "fit 'banana' is not one of crop, pad, stretch"),
        ({"context": -5}, ImageError, "context -5.0 is not at least 0"),
        ({"mask": np.zeros((64, 64), np.uint8)}, ImageError, "The mask is black, so it edits nothing"),
        ({"mask": np.ones((64, 64), np.uint8)}, ImageError, "its brightest value is 0.00392, and editing starts at"),
    ],
)
def test_arguments_that_are_refused(editor: Editor, options: dict[str, object], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        editor.edit(GUIDE, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "caffe"}, "engine 'caffe' is not one of auto, onnxruntime, openvino"),
        ({"precision": "int4"}, "precision 'int4' is not one of auto, float32, bfloat16, int8"),
        ({"threads": 0}, r"threads 0 is not in 1\.\.1024"),
        ({"slots": 0}, "slots 0"),
    ],
)
def test_what_cannot_be_opened(options: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Editor.open(**options)  # type: ignore[arg-type]


def test_without_any_engine_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(EngineError, match=r"pip install 'PATH\[cpu\]'"):
        Editor.open()
