"""Edits of any size: what an option asks for, what a network takes, and several sizes at once."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import write_bundle, write_free_bundle

from sdedit.errors import EngineError, ImageError, PlanError
from sdedit.runtime import Editor, machine
from sdedit.runtime.bundle import ImageSpec
from sdedit.runtime.editor.placing import wanted_size
from sdedit.runtime.loop import KEPT_SHAPES, Loop, Task
from sdedit.runtime.plan import Plan
from sdedit.runtime.settings import Settings

PHOTO = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
MASK = np.zeros((30, 50), np.uint8)
MASK[5:20, 10:35] = 255
SPEC = ImageSpec(3, 8, 8, 4, free=True, max_pixels=1024)


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Editor]:
    """An editor of a network that halves images of any size whose sides are multiples of 4."""
    with Editor.open(write_free_bundle(tmp_path_factory.mktemp("free") / "tiny"), slots=3, threads=1) as editor:
        yield editor


def pixels(editor: Editor, mask: np.ndarray | None = None, **options: Any) -> np.ndarray:
    return np.asarray(editor.edit(PHOTO, mask, steps=3, **options).images[0].pil)


@pytest.mark.parametrize(
    ("options", "height", "width"),
    [
        ({}, 8, 8),
        ({"size": "native"}, 8, 8),
        ({"size": "16x12"}, 16, 12),
        ({"size": 40}, 24, 40),
        ({"size": "40"}, 24, 40),
        ({"size": "guide", "max_pixels": 2048}, 30, 50),
        ({"size": "guide", "tile": 12}, 30, 50),
    ],
)
def test_a_result_has_the_size_that_was_asked_for(editor: Editor, options: Any, height: int, width: int) -> None:
    assert pixels(editor, **options).shape == (height, width, 3)


@given(longer=st.integers(1, 300), guide=st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_a_longer_side_keeps_the_aspect(longer: int, guide: tuple[int, int]) -> None:
    width, height = wanted_size(str(4 * longer), SPEC, guide)
    assert max(width, height) == 4 * longer
    assert (width >= height) if guide[0] > guide[1] else (width <= height)
    exact = 4 * longer * min(guide) / max(guide)
    assert abs(min(width, height) - max(exact, 4)) <= 2


@given(
    size=st.sampled_from([None, "native", "guide", "12x20", "24"]),
    max_pixels=st.sampled_from([400, 2048]),
    tile=st.sampled_from([None, 8, 16]),
    context=st.floats(0, 2),
    feather=st.integers(0, 8),
    keep=st.sampled_from(["fresh", "fixed"]),
    seed=st.integers(0, 99),
)
def test_outside_the_mask_every_byte_stays(
    editor: Editor,
    size: str | None,
    max_pixels: int,
    tile: int | None,
    context: float,
    feather: int,
    keep: Any,
    seed: int,
) -> None:
    mask = np.random.default_rng(seed).choice([0, 0, 0, 160, 255], (30, 50)).astype(np.uint8)
    mask[seed % 30, seed % 50] = 255
    if size == "guide" and tile is None:
        max_pixels = 2048
    options: Any = {"max_pixels": max_pixels, "tile": tile, "context": context, "feather": feather, "keep": keep}
    after = pixels(editor, mask, size=size, seed=seed, **options)
    assert np.array_equal(after[mask == 0], PHOTO[mask == 0])


def test_a_masked_part_is_edited_with_the_photos_own_detail(editor: Editor) -> None:
    """Halving makes every pixel of the prediction its own: at the photo's scale nothing is blurred."""
    scaled = pixels(editor, MASK, feather=0, t0=0.15)
    native = pixels(editor, MASK, feather=0, t0=0.15, size="native")
    inside = np.s_[8:17, 13:32]
    detail = [np.abs(np.diff(image[inside].astype(int), axis=1)).mean() for image in (PHOTO, scaled, native)]
    assert detail[1] > 0.8 * detail[0]
    assert detail[2] < 0.5 * detail[0]


def test_jobs_of_several_sizes_at_once_are_what_they_are_alone(editor: Editor) -> None:
    sizes = ["8x8", "12x8", "8x8", "24x40", "16x16", "20x4", "12x8", "4x4"]
    jobs = [editor.submit(PHOTO, steps=5, size=size, seed=n, images=2) for n, size in enumerate(sizes)]
    jobs.append(editor.submit(PHOTO, steps=5, size="24x40", tile=16, images=2))
    together = [[image.pil.tobytes() for image in job.result().images] for job in jobs]
    alone = [
        [image.pil.tobytes() for image in editor.edit(PHOTO, steps=5, size=size, seed=n, images=2).images]
        for n, size in enumerate(sizes)
    ]
    alone.append([i.pil.tobytes() for i in editor.edit(PHOTO, steps=5, size="24x40", tile=16, images=2).images])
    assert together == alone


def test_tiles_make_the_edit_of_the_whole_but_for_rounding(editor: Editor) -> None:
    whole = pixels(editor, size="guide", max_pixels=2048).astype(int)
    assert np.abs(pixels(editor, size="guide", tile=8) - whole).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "12x10"}, "size 12x10: sides must be multiples of 4"),
        ({"size": "guide"}, "size 32x52 has 1664 pixels, more than the 1024 that are edited at once: tile edits it"),
        ({"size": "40x40"}, "size 40x40 has 1600 pixels, more than the 1024"),
        ({"max_pixels": 15}, "max_pixels 15 is not at least 16: sides are multiples of 4"),
        ({"tile": 10}, "tile 10 is not a multiple of 4"),
        ({"tile": 36}, "tile 36 has 1296 pixels, more than max_pixels 1024"),
        ({"size": "large"}, "size 'large' is not one of native, guide, LONGER_SIDE, HEIGHTxWIDTH"),
        ({"size": "0x8"}, "size '0x8' is not one of"),
        ({"size": -8}, "size '-8' is not one of"),
        ({"size": True}, "size True is not one of"),
        ({"size": 8.5}, "size 8.5 is not an integer"),
        ({"feather": 65}, "feather 65 is not in 0..64"),
        ({"tile": 0}, "tile 0 is not in 1..65535"),
    ],
)
def test_what_a_network_does_not_take_is_refused_in_one_line(editor: Editor, options: Any, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        pixels(editor, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_network_of_one_size_says_so(tmp_path: Path) -> None:
    with Editor.open(write_bundle(tmp_path / "fixed"), threads=1) as editor:
        for options, message in (
            ({"size": 16}, "size 8x16: the network takes 8x8 only"),
            ({"size": "guide"}, "size 32x56: the network takes 8x8 only"),
            ({"max_pixels": 1024}, "max_pixels 1024: the network takes 8x8 pixels only"),
            ({"tile": 16}, "tile 16: the network takes 8x8 pixels only"),
        ):
            with pytest.raises((PlanError, ImageError), match=message):
                pixels(editor, **options)
        assert pixels(editor, MASK).shape == PHOTO.shape
        assert pixels(editor, size="guide", tile=8).shape == PHOTO.shape  # its own size tiles any other


def test_a_size_beyond_memory_is_refused_before_anything_is_made(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10**6)
    with pytest.raises(EngineError, match=r"3 slots of 240x400 need 0\.0 GB of memory"):
        pixels(editor, size=400, tile=8)
    monkeypatch.undo()
    monkeypatch.setattr(Image.Image, "resize", lambda *_: pytest.fail("a picture was made"))
    with pytest.raises(EngineError, match=r"3 slots of 65532x65532 need [\d,.]+ GB of memory"):
        pixels(editor, size="65532x65532", tile=8)
    monkeypatch.undo()
    assert pixels(editor).shape == (8, 8, 3)


def test_recipes_from_before_there_were_sizes_mean_what_they_meant() -> None:
    recipe = Settings().recipe()
    for name in ("size", "max_pixels", "tile", "feather"):
        del recipe[name]
    read = Settings.from_recipe(recipe)
    assert (read.size, read.max_pixels, read.tile, read.feather) == ("native", None, None, 0)


class Buffers:
    """A device that only counts. made: all devices by shape."""

    kernels, runs_ahead, engine, name = "none", False, None, "cpu"

    def __init__(self, shape: tuple[int, ...], made: list["Buffers"]) -> None:
        self.state_shape, self.made, self.slots, self.closed = shape, made, 2, False
        made.append(self)

    def for_shape(self, shape: tuple[int, ...], tile: int | None) -> "Buffers":
        return Buffers(shape, self.made)

    def write(self, slot: int, values: Any) -> None:
        assert not self.closed

    def read(self, slot: int, name: str) -> np.ndarray:
        return np.zeros(self.state_shape)

    def release(self, slot: int) -> None:
        assert not self.closed

    def begin(self) -> None: ...

    def step(self) -> None:
        assert not self.closed

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("kept", [0, 1, KEPT_SHAPES])
def test_buffers_of_the_last_few_shapes_are_kept(editor: Editor, kept: int) -> None:
    schedule = editor.bundle.schedule
    quick, long = (Settings(steps=steps, t0=1).plan(schedule, "eps") for steps in (1, 20))
    made: list[Buffers] = []
    loop = Loop(Buffers((3, 8, 8), made), kept)  # type: ignore[arg-type] # of a Device it has what the loop uses

    def admit(plan: Plan, side: int) -> None:
        loop.admit(Task(plan, np.zeros((3, side, side), np.float32), np.ones((side, side), np.float32), 0, 0))

    admit(long, 100)  # it stays while others come and go
    for side in [*range(4, 40, 4), 36]:
        admit(quick, side)
        assert loop.full
        assert len(loop.step()) == 1
    open_now = {device.state_shape[1] for device in made if not device.closed}
    assert {8, 100, 36} <= open_now
    assert len(open_now) == max(kept, 1) + 2  # one stays until another comes
    assert len(made) == 2 + 8  # 8 was there from the start, 36 is used again
    loop.close()
    assert all(device.closed for device in made)


def test_a_picture_of_one_colour_stays_one_at_every_size(editor: Editor) -> None:
    grey = Image.new("RGB", (37, 23), (128, 128, 128))
    edit = editor.edit(grey, steps=2, size="guide", t0=0.1)
    assert edit.images[0].pil.size == (37, 23)
