"""A box of the picture: its graphs against the network, sessions against edits of the whole, and what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper
from PIL import Image
from tiny import blurring_network, model, write_bundle, write_free_bundle

from sdedit import Editor, replay
from sdedit.errors import BundleError, EngineError, ImageError, PlanError
from sdedit.export.additions import extend_bundle
from sdedit.export.box.addition import box_addition
from sdedit.export.box.passes import box_pass, whole_pass
from sdedit.export.box.sites import find_sites
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.bundle.box import read_box_part
from sdedit.runtime.devices.box import BoxDevice
from sdedit.runtime.editor import Session
from sdedit.runtime.engines import load_engine
from sdedit.runtime.engines.box import Box, BoxNetwork

OPTIONS = {"steps": 3, "seed": 3, "max_pixels": 96 * 96}
SIZE = 96


@pytest.fixture(scope="module")
def boxed(build_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The shipped bundle with the part box/."""
    return build_once("boxed", lambda out: extend_bundle(SHIPPED, out / "bundle", [box_addition()])) / "bundle"


@pytest.fixture(scope="module")
def editor(boxed: Path) -> Iterator[Editor]:
    with Editor.open(boxed, engine="onnxruntime", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def graphs(boxed: Path) -> BoxNetwork:
    return BoxNetwork(read_bundle(boxed), 1)


def picture(seed: int) -> np.ndarray:
    """Soft colours: uint8 [96, 96, 3]."""
    few = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(few).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


PHOTO = picture(0)
PLACE = np.zeros((SIZE, SIZE), bool)
PLACE[40:62, 30:50] = True
GUIDE = np.where(PLACE[..., None], picture(1), PHOTO)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(a.astype(float) - b).mean(), 1e-9)))


def pixels(session: Session, guide: np.ndarray = GUIDE, mask: np.ndarray | None = None) -> np.ndarray:
    (image,) = session.edit(guide, mask).images
    return np.asarray(image.pil)


@pytest.mark.parametrize(
    "box", [Box(0, 0, 48, 64), Box(16, 24, 16, 24), Box(0, 40, 24, 24), Box(40, 0, 8, 8)], ids=lambda b: str(b)
)
def test_a_box_pass_gives_what_the_whole_pass_gives_there(graphs: BoxNetwork, boxed: Path, box: Box) -> None:
    """A box as large as the picture is one of them. Only rounding differs: 50 sums in float32, 1e-5 of the largest."""
    rng = np.random.default_rng(0)
    x, time = rng.standard_normal((1, 3, 48, 64)).astype(np.float32), np.float32([400])
    expected = np.empty_like(x)
    load_engine(read_bundle(boxed), "onnxruntime", "float32", 1).bind({"x": x, "time": time}, expected)()
    whole, kept = graphs.whole(x, time, box)
    largest = np.abs(expected).max()
    assert np.abs(whole - expected).max() <= 1e-5 * largest
    inside = graphs.box(x, time, box, kept)
    assert inside.shape[2:] == (box.height, box.width)
    assert np.abs(inside - expected[:, :, *box.slices]).max() <= 1e-5 * largest


def test_the_memory_of_a_row_is_what_is_said(graphs: BoxNetwork) -> None:
    x, box = np.zeros((1, 3, 48, 64), np.float32), Box(8, 16, 24, 32)
    _, kept = graphs.whole(x, np.float32([400]), box)
    assert sum(value.nbytes for value in kept.values()) == graphs.part.row_bytes((24, 32), (48, 64))


def test_a_session_is_near_the_whole_edit_and_keeps_what_it_keeps(editor: Editor) -> None:
    """40 dB inside the mask, and every byte outside it."""
    whole = np.asarray(editor.edit(GUIDE, PLACE, context=9.0, **OPTIONS).images[0].pil)
    with editor.session(PHOTO, PLACE, **OPTIONS) as session:
        assert session.box == (16, 32, 64, 72)
        found = pixels(session)
    assert np.array_equal(found[~PLACE], PHOTO[~PLACE])
    assert not np.array_equal(found[PLACE], GUIDE[PLACE])
    assert psnr(found[PLACE], whole[PLACE]) >= 40


def test_an_edit_does_not_depend_on_the_edits_before_it(editor: Editor) -> None:
    """Not on their guides and masks, nor on one that was cancelled half-way."""
    stroke = np.zeros_like(PLACE)
    stroke[45:55, 35:45] = True
    with editor.session(PHOTO, PLACE, **OPTIONS) as session:
        alone = pixels(session, GUIDE, stroke)
    with editor.session(PHOTO, PLACE, **OPTIONS) as session:
        job = session.submit(np.where(PLACE[..., None], picture(2), PHOTO))
        job.subscribe(lambda progress: job.cancel() if progress.step == 2 else None)
        pixels(session, GUIDE)
        after = pixels(session, GUIDE, stroke)
    assert np.array_equal(alone, after)
    assert np.array_equal(alone[~stroke], GUIDE[~stroke])


def test_whole_passes_are_made_once(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = BoxNetwork.whole
    monkeypatch.setattr(BoxNetwork, "whole", lambda *args: calls.append(1) or whole(*args))
    with editor.session(PHOTO, PLACE, images=2, **OPTIONS) as session:
        first = session.edit(GUIDE)
        again = session.edit(GUIDE, image_numbers=[1])
    assert len(calls) == 2 * OPTIONS["steps"]
    assert np.array_equal(np.asarray(first.images[1].pil), np.asarray(again.images[0].pil))


@pytest.mark.parametrize("options", [{"memory": 1000}, {"max_pixels": 64 * 64}], ids=["memory", "large place"])
def test_without_a_box_edits_are_the_editors_own(editor: Editor, options: dict[str, int]) -> None:
    memory = {name: value for name, value in options.items() if name == "memory"}
    settings = {**OPTIONS, "steps": 2, **{name: value for name, value in options.items() if name != "memory"}}
    place = PLACE if memory else np.ones_like(PLACE)
    expected = editor.edit(GUIDE, place, **settings).images[0]
    with editor.session(PHOTO, place, **memory, **settings) as session:
        assert session.box is None
        found = session.edit(GUIDE).images[0]
    assert np.array_equal(np.asarray(found.pil), np.asarray(expected.pil))
    assert "session" not in found.recipe


def test_a_recipe_says_session_and_replay_what_to_do(editor: Editor, tmp_path: Path) -> None:
    with editor.session(PHOTO, PLACE, **{**OPTIONS, "steps": 2}) as session:
        (image,) = session.edit(GUIDE).images
    assert image.recipe["session"]["box"] == [16, 32, 64, 72]
    image.save(tmp_path / "out.png")
    with pytest.raises(PlanError, match=r"made in a session.*Editor\.session"):
        replay(tmp_path / "out.png")


def test_what_lies_outside_the_place_is_refused(editor: Editor) -> None:
    with editor.session(PHOTO, PLACE, **OPTIONS) as session:
        with pytest.raises(ImageError, match="guide differs from the session's photo outside"):
            session.edit(picture(1))
        with pytest.raises(ImageError, match="mask edits pixels outside the session's place"):
            session.edit(GUIDE, np.ones_like(PLACE))
        with pytest.raises(ImageError, match="they must be equal"):
            session.edit(GUIDE[:50])


def test_settings_that_a_session_cannot_have_are_refused(editor: Editor) -> None:
    with pytest.raises(PlanError, match="keep paper: a session needs fresh or fixed"):
        editor.session(PHOTO, PLACE, keep="paper")
    with pytest.raises(PlanError, match="tile 64: a session takes none"):
        editor.session(PHOTO, PLACE, tile=64)
    with (
        Editor.open(threads=1) as plain,
        pytest.raises(EngineError, match=r"no graphs for boxes: sdedit extend .*--box"),
    ):
        plain.session(PHOTO, PLACE)


def test_networks_without_a_box_are_refused_by_name(tmp_path: Path) -> None:
    softplus = model([helper.make_node("Softplus", ["x"], ["out"])], [], free=True)
    with pytest.raises(BundleError, match="box: the network has the operator Softplus"):
        find_sites(softplus, 4)
    total = model([helper.make_node("ReduceMean", ["x"], ["out"])], [], free=True)
    with pytest.raises(BundleError, match="box: the ReduceMean '' is over all axes, not over height and width"):
        find_sites(total, 4)
    pool = helper.make_node("AveragePool", ["x"], ["out"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    with pytest.raises(BundleError, match="box: the network has the operator AveragePool"):
        find_sites(model([pool], [], free=True), 4)
    lone = model([helper.make_node("MatMul", ["x", "x"], ["out"])], [], free=True)
    with pytest.raises(BundleError, match="MatMul that belongs to no attention"):
        find_sites(lone, 4)
    fixed, free = write_bundle(tmp_path / "fixed"), write_free_bundle(tmp_path / "free")
    with pytest.raises(BundleError, match="a network of one size: export it without --fixed"):
        extend_bundle(fixed, tmp_path / "out", [box_addition()])
    with pytest.raises(BundleError, match="no convolution wider than a pixel"):
        extend_bundle(free, tmp_path / "out", [box_addition()])
    assert not (tmp_path / "out").exists()


def passes_of(network: ModelProto, kept: list[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Run both passes of a network on 6x7 cells, with a box of 3x4 of them at (2, 0).

    Returns the output and the values named `kept` of the whole pass, and the output of the box pass.
    """
    import onnxruntime

    sites = find_sites(network, 1)
    whole, box = (
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        for made in (whole_pass(network, sites), box_pass(network, sites))
    )
    x = np.arange(3 * 6 * 7, dtype=np.float32).reshape(1, 3, 6, 7)
    place = {"time": np.zeros(1, np.float32), "pos": np.array([2, 0]), "share": np.float32([12 / 42])}
    out, *values = whole.run(["out", *kept], {"x": x, "size": np.array([3, 4]), **place})
    fed = dict(zip(kept, values, strict=True))
    (inside,) = box.run(["out"], {"x": x[:, :, 2:5, :4].copy(), **fed, **place})
    return [out, *values], inside


def test_a_convolution_alone_has_exact_halos() -> None:
    """A network of one convolution: the whole pass keeps what the cells around the box add, and nothing in it."""
    network = blurring_network()
    assert [(site.value, site.channels, site.scale) for site in find_sites(network, 1).halos] == [("x", 3, 1)]
    (out, halo), inside = passes_of(network, ["halo.0"])
    assert np.all(halo[:, :, 1, 1:3] == 0)
    assert np.allclose(inside, out[:, :, 2:5, :4], rtol=1e-6)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_the_picture_counts_what_lies_outside_the_box(keepdims: int) -> None:
    """A network of a convolution that adds its mean."""
    network = blurring_network()
    (blur,) = network.graph.node
    blur.output[0] = "blurred"
    network.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    network.graph.node.append(helper.make_node("ReduceMean", ["blurred", "axes"], ["mean"], keepdims=keepdims))
    if not keepdims:
        network.graph.node.append(helper.make_node("Unsqueeze", ["mean", "axes"], ["mean4"]))
    network.graph.node.append(helper.make_node("Add", ["blurred", "mean" if keepdims else "mean4"], ["out"]))
    assert [(site.value, site.channels) for site in find_sites(network, 1).means] == [("blurred", 3)]
    (out, *_), inside = passes_of(network, ["halo.0", "mean.0"])
    assert np.allclose(inside, out[:, :, 2:5, :4], rtol=1e-6)


def test_a_damaged_record_is_refused(boxed: Path, tmp_path: Path) -> None:
    assert read_box_part(read_bundle(boxed)).unit == 8
    with pytest.raises(EngineError, match="no graphs for boxes"):
        read_box_part(read_bundle(write_bundle(tmp_path / "plain")))


def test_a_closed_session_holds_no_recordings(editor: Editor) -> None:
    with editor.session(PHOTO, PLACE, **{**OPTIONS, "steps": 1}) as session:
        session.edit(GUIDE)
        device = session._device
        assert isinstance(device, BoxDevice)
        assert device._recordings
    assert not device._recordings
    with pytest.raises(EngineError):
        session.edit(GUIDE)
