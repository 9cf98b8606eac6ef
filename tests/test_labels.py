"""Networks with classes: from torch through a bundle to an edit, with and without guidance."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from command_line import Run, assert_mistake
from PIL import Image
from torch import Tensor, nn
from weights import weight

from sdedit.errors import EngineError, PlanError
from sdedit.export.bundle import export_bundle
from sdedit.kernels.layout import KIND_BEGIN
from sdedit.kernels.noise import normal_numpy
from sdedit.runtime import Bundle, Editor, read_bundle
from sdedit.runtime.bundle import MANIFEST, write_manifest
from sdedit.runtime.engines import open_engine
from sdedit.runtime.plan import make_plan
from sdedit.runtime.replay import replay
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde
from sdedit_ref.checkpoints import Checkpoint

SHAPE = (3, 8, 8)
CLASSES = 3
GUIDE = np.full((8, 8, 3), 128, np.uint8)


class Labelled(nn.Module):
    """A network of one convolution and a colour for each label; the last label stands for no class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.colour = nn.Embedding(CLASSES + 1, 3)
        self.load_state_dict({name: weight(name, value.shape) for name, value in self.state_dict().items()})

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.conv(x) + self.colour(label)[:, :, None, None] * torch.cos(time)[:, None, None, None]


def checkpoint(null_label: int | None) -> Checkpoint:
    return Checkpoint(
        Path("labelled"),
        sha256="0" * 64,
        family="a test",
        network=Labelled().eval(),
        prediction="eps",
        schedule_name="cosine",
        schedule=sde.cosine(100),
        shape=SHAPE,
        multiple_of=1,
        classes=CLASSES,
        null_label=null_label,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("labels") / "labelled"
    return export_bundle(checkpoint(CLASSES), out, name="labelled", licence="CC0", weights="float32", fixed=True)


@pytest.fixture(scope="module")
def no_null(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same network, which is not traced again; no label stands for no class."""
    out = tmp_path_factory.mktemp("labels") / "no-null"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sdedit.export.bundle.to_onnx", lambda *_, **__: ir.load(bundle.network))
        return export_bundle(checkpoint(None), out, name="no-null", licence="CC0", weights="float32", fixed=True)


def pixels(bundle: Bundle, **options: Any) -> np.ndarray:
    with Editor.open(bundle.path, threads=1) as editor:
        return np.asarray(editor.edit(GUIDE, **{"t0": 0.5, "steps": 5, **options}).images[0].pil)


def test_lanes_change_no_byte_of_a_guided_edit(bundle: Bundle) -> None:
    for engine in ("onnxruntime", "openvino"):
        edits = []
        for slots in (1, 2):
            with Editor.open(bundle.path, engine=engine, threads=2, slots=slots) as editor:
                done = editor.edit(GUIDE, steps=3, label=1, guidance=2.0, images=2)
                edits.append([image.pil.tobytes() for image in done.images])
        assert edits[0] == edits[1]


def edit_in_torch(label: int, guidance: float) -> np.ndarray:
    """The same edit with sampler ddim, which draws no noise after the first, in float32."""
    plan = make_plan(Schedule(sde.cosine(100)), "eps", t0=0.5, steps=5, sampler="ddim", guidance=guidance)
    size = math.prod(SHAPE)
    guide = np.full(SHAPE, 128 / 127.5 - 1, np.float32)
    x = np.float32(plan.alpha0) * guide + np.float32(plan.sigma0) * normal_numpy(0, 0, 0, 0, KIND_BEGIN, size).reshape(
        SHAPE
    )
    network = Labelled().eval()
    for row in plan.rows:
        with torch.inference_mode():
            batch = torch.from_numpy(np.stack([x, x]))
            o, u = network(batch, torch.full((2,), float(row["time"])), torch.tensor([label, CLASSES])).numpy()
        mixed = u + row["guidance"] * (o - u)
        x0 = np.clip(row["a_x"] * x + row["a_o"] * mixed, -1, 1)
        x = row["c_x"] * x + row["c_0"] * x0
    return x


def test_the_bundle_says_its_labels(bundle: Bundle, no_null: Bundle) -> None:
    assert (bundle.manifest.conditioning, bundle.classes, bundle.null_label) == ("label", CLASSES, CLASSES)
    assert (no_null.manifest.conditioning, no_null.classes, no_null.null_label) == ("label", CLASSES, None)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_are_told_the_label(bundle: Bundle, engine: str) -> None:
    x = np.ones((1, *SHAPE), np.float32)
    time, label, out = np.float32([3]), np.int64([0]), np.zeros_like(x)
    evaluate = open_engine(bundle, engine=engine, threads=1).bind({"x": x, "time": time, "label": label}, out)
    for label[0] in range(CLASSES + 1):
        evaluate()
        with torch.inference_mode():
            expected = Labelled().eval()(torch.from_numpy(x), torch.from_numpy(time), torch.from_numpy(label)).numpy()
        assert np.abs(out - expected).max() < 1e-5  # sums of 28 terms near 1, in float32


@pytest.mark.parametrize(("label", "guidance"), [(0, 1.0), (2, 1.0), (1, 3.0), (1, 0.0)])
def test_an_edit_is_that_of_torch(bundle: Bundle, label: int, guidance: float) -> None:
    expected = np.rint((edit_in_torch(label, guidance) + 1) * 127.5).clip(0, 255).transpose(1, 2, 0)
    found = pixels(bundle, sampler="ddim", label=label, guidance=guidance)
    assert np.abs(found - expected).max() <= 1  # a value that falls between two bytes
    assert (found != expected).mean() < 0.02


def test_labels_and_guidance_change_the_image(bundle: Bundle) -> None:
    options: list[dict[str, Any]] = [{"label": 0}, {"label": 1}, {"label": 1, "guidance": 2.0}, {}]
    images = {pixels(bundle, **one).tobytes() for one in options}
    assert len(images) == len(options)


def test_slots_keep_their_labels_apart(bundle: Bundle) -> None:
    choices = [(0, 1.0), (1, 2.0), (2, 1.0), (1, 0.5)]
    alone = [pixels(bundle, label=label, guidance=guidance) for label, guidance in choices]
    with Editor.open(bundle.path, threads=1, slots=3) as editor:
        jobs = [editor.submit(GUIDE, t0=0.5, steps=5, label=label, guidance=g) for label, g in choices]
        together = [np.asarray(job.result().images[0].pil) for job in jobs]
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_without_a_label_it_is_of_no_class(bundle: Bundle) -> None:
    expected = np.rint((edit_in_torch(CLASSES, 1.0) + 1) * 127.5).clip(0, 255).transpose(1, 2, 0)
    assert np.abs(pixels(bundle, sampler="ddim") - expected).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": 3}, "label 3: labelled takes 0..2"),
        ({"label": -1}, "label -1: labelled takes 0..2"),
        ({"label": "cat"}, "label 'cat' is not an integer"),
        ({"label": 1.5}, "label 1.5 is not an integer"),
        ({"guidance": 2.0}, "guidance 2 needs a label: labelled takes 0..2"),
        ({"label": 1, "guidance": math.inf}, "guidance inf is not finite"),
        ({"label": 1, "guidance": "much"}, "guidance 'much' is not a number"),
    ],
)
def test_labels_that_do_not_fit(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        pixels(bundle, **options)


def test_a_network_without_a_null_label_needs_one_and_takes_no_guidance(no_null: Bundle) -> None:
    with pytest.raises(PlanError, match=r"a label is needed: no-null takes 0\.\.2"):
        pixels(no_null)
    with pytest.raises(PlanError, match=r'no-null has no "no class" label, so guidance must be 1 \(it is 2\)'):
        pixels(no_null, label=1, guidance=2.0)
    assert pixels(no_null, label=1).tobytes() != pixels(no_null, label=2).tobytes()


def test_the_shipped_model_takes_no_label(run: Run, guide: Path, out: Path) -> None:
    assert_mistake(run("edit", guide, "--out", out, "--label", 1), "label 1: earth64 takes none")
    expected = 'earth64 has no "no class" label, so guidance must be 1 (it is 2)'
    assert_mistake(run("edit", guide, "--out", out, "--guidance", 2), expected)


def test_the_command_line_and_its_recipe_have_the_label(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "guide.png", tmp_path / "out.png"
    Image.fromarray(GUIDE).save(source)
    options = ["--bundle", bundle.path, "--steps", 5, "--label", 1, "--guidance", 2, "--threads", 1]
    assert run("edit", source, "--out", out, *options)[0] == 0
    assert np.array_equal(np.asarray(Image.open(out)), pixels(bundle, label=1, guidance=2.0))
    again = replay(out, bundle=bundle.path)
    assert (again.pixels, again.image.recipe["label"], again.image.recipe["guidance"]) == (0, 1, 2.0)


def test_tune_and_inspect_take_such_a_bundle(bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdedit.runtime.checks.tune.SECONDS", 0.1)
    assert run("tune", "--bundle", bundle.path, "--threads", 1)[0] == 0
    assert {"classes: 3", "null_label: 3"} <= set(run("inspect", bundle.path)[1].splitlines())


def test_a_network_whose_label_is_missing_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "net")
    manifest = json.loads((tmp_path / "net" / MANIFEST).read_text())
    write_manifest(tmp_path / "net", {**manifest, "conditioning": "none", "classes": 0, "null_label": None})
    for engine in ("onnxruntime", "openvino"):
        with pytest.raises(EngineError, match="the bundle says float32 out"):
            open_engine(read_bundle(tmp_path / "net"), engine=engine, threads=1)
