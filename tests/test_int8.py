"""int8 variants: written where edits stay close to float32, read back as what was asked for, refused where they lie."""

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Run
from tiny import rewrite, write_bundle

from sdedit.errors import BundleError, EngineError, SdeditError
from sdedit.export import int8
from sdedit.export.additions import extend_bundle
from sdedit.export.calibration import Recorder, make_requests, open_editor, paint, run_edits, sample_guides
from sdedit.export.onnx_nodes import unstore_half
from sdedit.runtime import Editor
from sdedit.runtime.bundle import Bundle, read_bundle
from sdedit.runtime.bundle.variants import read_variant, read_variants
from sdedit.runtime.checks.tune import candidates
from sdedit.runtime.codec import to_image
from sdedit.runtime.engines import load_engine, open_engine
from sdedit.runtime.engines.signal_stack import signal_stack

VARIANTS = "variants/variants.json"
NETWORK = "variants/int8.onnx"


def quietly(line: str) -> None:
    """Take a line of output and drop it."""


@pytest.fixture(scope="module", autouse=True)
def little_work() -> Iterator[None]:
    """Fewer edits, states and attempts than an export makes: all of them are exercised, in seconds."""
    little = {"GUIDES": 2, "T0S": (0.5, 1.0), "STEPS": 3, "JUDGED_STEPS": 5, "SENSITIVITY_STATES": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in little.items():
            patch.setattr(int8, name, value)
        patch.setattr("sdedit.export.calibration.SAMPLE_STEPS", 5)
        yield


@pytest.fixture(scope="module")
def bundle(exported_ddpm: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy, alone in its folder: tests try to change it."""
    folder = tmp_path_factory.mktemp("int8")
    return read_bundle(Path(shutil.copytree(exported_ddpm / "bundle", folder / "tiny")))


@pytest.fixture(scope="module")
def quantised(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("out") / "tiny8"
    return extend_bundle(bundle.path, out, [int8.int8_addition(10.0, say=quietly)], quietly)


def test_the_variant_keeps_what_the_export_promised(quantised: Bundle) -> None:
    """New edits by the engine that reads the variant are as close to float32 as variants.json says."""
    bundle = quantised
    said = read_variants(bundle)["int8"].facts
    assert said["edit_psnr"]["0.5"]["worst"] >= 10.0
    reference = load_engine(bundle, "openvino", "float32", 1)
    with open_editor(bundle, reference) as editor:
        requests = make_requests(sample_guides(editor, int8.GUIDES, seed=3000), int8.JUDGED_T0S, seed=4000)
        again = int8.judge(bundle, requests, run_edits(editor, requests, int8.JUDGED_STEPS))
    for t0, values in said["edit_psnr"].items():
        # the judged edits ran on another number of threads, whose sums round in float32 (1e-7) and bfloat16 (2e-3)
        assert again[t0]["worst"] == pytest.approx(values["worst"], abs=1.0)


def test_int8_is_a_promise(quantised: Bundle, bundle: Bundle) -> None:
    engine = open_engine(quantised, precision="int8", threads=1)
    assert (engine.name, engine.precision) == ("openvino", "int8")
    with pytest.raises(EngineError, match=r"precision 'int8': bundle .* has none: sdedit extend .* --int8"):
        open_engine(bundle, precision="int8")
    with pytest.raises(EngineError, match="not one of auto, float32, which engine onnxruntime on device cpu has"):
        open_engine(quantised, engine="onnxruntime", precision="int8")


def test_edits_in_int8_are_the_same_bytes_alone_and_in_company(quantised: Bundle) -> None:
    """Whether lanes are used or the bits differ on one thread, which is found out."""
    edits = []
    for slots in (1, 2):
        with Editor.open(quantised.path, precision="int8", threads=2, slots=slots) as editor:
            done = editor.edit(np.full((8, 8, 3), 99, np.uint8), steps=3, images=2)
            edits.append([image.pil.tobytes() for image in done.images])
    assert edits[0] == edits[1]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other signal stacks")
def test_a_host_keeps_its_stack_for_signals(quantised: Bundle) -> None:
    """The question whether the processor has bfloat16 loads OpenVINO's plugin, which took the thread's stack."""
    own = signal_stack().address
    engines = [open_engine(quantised, engine="openvino", precision="int8") for _ in range(2)]
    assert signal_stack().address == own
    engines.clear()
    assert signal_stack().address == own


def test_a_float_graph_under_the_name_of_int8_is_refused(quantised: Bundle, tmp_path: Path) -> None:
    """The running precision is read back: a variant that has no convolution in 8 bits is not int8."""
    bundle = quantised
    folder = tmp_path / "copy"
    shutil.copytree(bundle.path, folder)
    int8.write_variant(read_bundle(folder), onnx.load(bundle.network), {})
    with pytest.raises(
        EngineError, match=r"openvino runs (float32|bfloat16) on 1 threads where int8 on 1 was asked for"
    ):
        load_engine(read_bundle(folder), "openvino", "int8", 1)


def test_what_no_variant_reaches_is_said_and_nothing_is_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "rank", lambda model, quantised, states: ["node_conv2d", "node_conv2d_1"])
    with pytest.raises(BundleError, match=r"come within \d+\.\d dB of float32, not 500, with up to \d+ of \d+ conv"):
        extend_bundle(bundle.path, tmp_path / "out", [int8.int8_addition(500.0, say=quietly)], quietly)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["run_edits", "quantise", "rank", "judge"])
@pytest.mark.parametrize("end", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_and_want_of_memory_leave_nothing(
    end: type[BaseException], where: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object) -> None:
        raise end

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(int8, "quantise", lambda nncf, model, states: model)
    monkeypatch.setattr(int8, "rank", lambda model, quantised, states: ["node_conv2d", "node_conv2d_1"])
    monkeypatch.setattr(int8, where, ends)
    threads = threading.active_count()
    before = {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()}
    for out in (tmp_path / "out", bundle.path):
        with pytest.raises(end):
            extend_bundle(bundle.path, out, [int8.int8_addition(10.0, say=quietly)], quietly)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]
    assert [path.name for path in bundle.path.parent.iterdir()] == [bundle.path.name]
    assert {path: path.read_bytes() for path in bundle.path.rglob("*") if path.is_file()} == before
    assert threading.active_count() == threads, "the workers of its editors have ended"


def test_restoring_every_convolution_gives_the_network_back(quantised: Bundle, bundle: Bundle) -> None:
    """The nodes and weights are the same to the bit, in the same order."""
    model = onnx.load(bundle.network)
    unstore_half(model)
    small = onnx.load(quantised.path / NETWORK)
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]
    rng = np.random.default_rng(0)
    states = [{"x": rng.standard_normal((1, 3, 16, 16), np.float32), "time": np.float32([50])}]
    back = int8.restore(small, model, names)
    onnx.checker.check_model(back, full_check=True)
    assert not [node for node in back.graph.node if "Quantize" in node.op_type]
    assert np.array_equal(int8.outputs(back, states), int8.outputs(model, states))
    assert not np.array_equal(int8.outputs(small, states), int8.outputs(model, states))


def test_fewer_convolutions_than_half_are_left_in_float() -> None:
    assert list(int8.counts(50)) == [0, 1, 2, 3, 4, 6, 9, 14, 20]
    assert list(int8.counts(1)) == [0]


def test_the_recorder_sees_every_evaluation_of_every_edit(bundle: Bundle) -> None:
    recorder = Recorder(load_engine(bundle, "onnxruntime", "float32", 1))
    guides = [to_image(np.zeros(bundle.state_shape, np.float32))] * 2
    requests = make_requests(guides, (0.3, 1.0), seed=0)
    with open_editor(bundle, recorder) as editor:
        run_edits(editor, requests, 5)
    assert len(recorder.visited) == 4 * 5
    assert {float(state["time"][0]) for state in recorder.visited} >= {29.0, 99.0}
    assert [request.mask is None for request in requests] == [True, False, False, True]
    assert [request.seed for request in requests] == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 16, 16)])
def test_strokes_have_few_colours(shape: tuple[int, int, int]) -> None:
    picture = to_image(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    painted = np.atleast_3d(np.asarray(paint(picture)))
    assert painted.shape == (*shape[1:], shape[0])
    assert 2 <= len(np.unique(painted.reshape(-1, shape[0]), axis=0)) <= 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "variants.json is damaged"),
        (b'{"int8": {}}', "variants.json is damaged"),
        (b'{"int8": {"file": "other.onnx"}}', "names 'variants/other.onnx', which bundle.json does not list"),
    ],
)
def test_a_damaged_list_of_variants_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    (folder / "variants").mkdir()
    rewrite(folder, VARIANTS, text)
    with pytest.raises(BundleError, match=message):
        read_variant(read_bundle(folder), "int8")


def test_a_variant_stays_in_its_file(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    (folder / "variants").mkdir()
    model = onnx.load(folder / "network.onnx")
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="bundle.json")
    rewrite(folder, NETWORK, model.SerializeToString())
    rewrite(folder, VARIANTS, json.dumps({"int8": {"file": "int8.onnx"}}).encode())
    with pytest.raises(BundleError, match=r"int8\.onnx asks for 'bundle\.json', which bundle\.json does not list"):
        read_variant(read_bundle(folder), "int8")


def test_tune_tries_low_precision_on_openvino_alone() -> None:
    kinds = {(engine, precision) for engine, precision, _ in candidates(1)}
    assert {precision for engine, precision in kinds if engine == "onnxruntime"} == {"float32"}
    assert {precision for engine, precision in kinds if engine == "openvino"} == {"float32", "bfloat16", "int8"}


def test_without_nncf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(SdeditError, match=r"--int8 needs the package nncf: pip install 'PATH\[export\]'"):
        int8.int8_addition()


def test_the_command_adds_int8_to_a_bundle(
    bundle: Bundle, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "rank", lambda model, quantised, states: ["node_conv2d", "node_conv2d_1"])
    code, _, err = run("extend", bundle.path, "--out", tmp_path / "out", "--min-psnr", "20")
    assert (code, err) == (2, "sdedit: --min-psnr goes with --int8\n")
    code, out, err = run("extend", bundle.path, "--out", tmp_path / "out", "--int8", "--min-psnr", "10")
    assert code == 0, err
    assert "convolutions left in float, edits from t0 = 0.5 within" in out
    assert "int8" in read_variants(read_bundle(tmp_path / "out"))
