"""TensorRT engines: built for real, by TensorRT-RTX on this machine, and run in a stand-in on the fake driver.

No engine is executed here. The stand-in asserts what TensorRT's documentation asks of its caller: an order of calls,
addresses, memory; its names and arguments are compared with the real package's.
"""

import ctypes
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import Run
from fake_driver import FakeDriver
from onnx import TensorProto, helper, numpy_helper
from stand_in_tensorrt import REAL_NAMES, SCRATCH, StandInTensorRt, in_place_of_tensorrt
from tiny import model, rewrite, write_bundle

from sdedit.errors import BundleError, EngineError
from sdedit.export import tensorrt as export
from sdedit.export.half import to_half
from sdedit.export.onnx_nodes import ancestors
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, Bundle, Network, read_bundle
from sdedit.runtime.bundle.engines import read_engines
from sdedit.runtime.engines import tensorrt
from sdedit.runtime.engines.tensorrt_build import RTX, RTX_ARCHITECTURES, import_tensorrt, read_header

# Networks in half.


def float_types(network: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(network, check_type=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_the_shipped_network_computes_in_half_inside_and_has_float32_borders() -> None:
    half = to_half(onnx.load(str(SHIPPED / "network.onnx")))
    types = float_types(half)
    assert [types[name] for name in ("x", "time", "out")] == [TensorProto.FLOAT] * 3
    computing = {"Conv", "MatMul", "Gemm", "Add", "Mul", "Sigmoid"}
    angles = [node.input[0] for node in half.graph.node if node.op_type in ("Sin", "Cos")]
    assert {types[name] for name in angles} == {TensorProto.FLOAT}
    for node in half.graph.node:
        if types[node.output[0]] == TensorProto.INT64:  # sizes
            continue
        if node.op_type in computing and node.output[0] not in ancestors(half.graph, {"Sin", "Cos"}):
            assert types[node.output[0]] == TensorProto.FLOAT16, node.name
        if node.op_type in ("InstanceNormalization", "Softmax", "Sin", "Cos"):
            assert types[node.output[0]] == TensorProto.FLOAT, node.name
    stored = sum(np.prod(t.dims) * (2 if t.data_type == TensorProto.FLOAT16 else 4) for t in half.graph.initializer)
    assert half.ByteSize() == pytest.approx(stored, rel=0.05)
    assert stored < 0.51 * sum(4 * np.prod(t.dims) for t in half.graph.initializer)


def test_an_output_that_several_read_is_cast_once_and_keeps_its_name() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled"]),
        helper.make_node("Softmax", ["doubled"], ["a"], axis=1),
        helper.make_node("Exp", ["doubled"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["out"]),
    ]
    half = to_half(model(nodes, []))
    casts = [node.input[0] for node in half.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == ["a", "b", "doubled", "out.half", "x"]


def test_what_half_cannot_hold_is_refused() -> None:
    big = numpy_helper.from_array(np.float32([1e6]), "big")
    with pytest.raises(ValueError, match="the weight big has values beyond half's range"):
        to_half(model([helper.make_node("Mul", ["x", "big"], ["out"])], [big]))


# Engines.


@pytest.fixture(scope="module")
def with_engines(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Engines built by the command line in a process of its own: here TensorRT would meet other tests' fake driver."""
    pytest.importorskip(RTX, reason="tensorrt-rtx is not installed: pip install '.[cuda]'")
    folder = tmp_path_factory.mktemp("engines")
    source = write_bundle(folder / "plain")
    command = [sys.executable, "-c", "from sdedit.cli import main; main()", "extend", str(source)]
    options = ["--out", str(folder / "bundle"), "--tensorrt", "sm89,sm75", "--cubins", "sm89", "--engine-batch", "2"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "engine, float16" in done.stdout
    return read_bundle(folder / "bundle")


def test_engines_are_for_what_they_say(with_engines: Bundle) -> None:
    entries = {entry.precision: entry for entry in read_engines(with_engines)}
    assert set(entries) == {"float32", "float16"}
    for entry in entries.values():
        architectures = ("sm89",) if entry.precision == "float32" else ("sm75", "sm89")
        assert tuple(entry.architectures) == architectures
        assert entry.batches == (1, 2)
        data = (with_engines.path / "engines" / entry.file).read_bytes()
        assert read_header(data) == (entry.version, architectures)
        assert entry.network_sha256 == with_engines.manifest.files[entry.network].sha256
    assert entries["float32"].error == 0  # x / 2 is exact
    assert 0 < entries["float16"].error <= 2**-11  # one rounding of x, one of the result, which is exact


def test_the_key_changes_with_all_that_shapes_an_engine(with_engines: Bundle) -> None:
    said: list[Any] = ["0" * 64, with_engines, ("sm89",), 1, "1.7"]
    keys = {export.engine_key(*said)}
    for index, other in ((0, "1" * 64), (1, read_bundle(SHIPPED)), (2, ("sm80",)), (3, 2), (4, "1.8")):
        keys.add(export.engine_key(*(other if at == index else value for at, value in enumerate(said))))
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tensorrt", "sm90"), "architecture 'sm90' is not one of sm75, .* full TensorRT builds on the target"),
        (
            ("--tensorrt", "sm89", "--engine-precision", "int4"),
            "engine precision 'int4' is not one of float32, float16, int8",
        ),
        (("--tensorrt", "sm75", "--engine-precision", "float32"), "'float32' is not one for sm75: choose float16"),
        (("--tensorrt", "sm89", "--engine-batch", "0"), "engine batch 0 is not at least 1"),
        (("--cubins", "ptx", "--engine-batch", "2"), "--engine-precision and --engine-batch go with --tensorrt"),
    ],
)
def test_wrong_requests_are_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, _, err = run("extend", SHIPPED, "--out", tmp_path / "out", *options)
    assert code == 2
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "RTX", "tensorrt_of_nowhere")
    with pytest.raises(EngineError, match=r"need the package tensorrt-rtx: pip install 'PATH\[cuda\]'"):
        export.engines_addition(("sm89",))


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[0].pop("file"),
        lambda entries: entries[0].update(more=1),
        lambda entries: entries[0].update(batches=None),
        lambda entries: entries.append(7),
    ],
)
def test_a_damaged_manifest_of_engines_is_refused(with_engines: Bundle, tmp_path: Path, change: Any) -> None:
    assert "engines/engines.json is damaged" in refusal(with_engines, tmp_path, change)


def test_engines_that_the_bundle_does_not_list_are_refused(with_engines: Bundle, tmp_path: Path) -> None:
    assert "names 'engines/../x', which bundle.json does not list" in refusal(
        with_engines, tmp_path, lambda entries: entries[0].update(file="../x")
    )


def refusal(bundle: Bundle, tmp_path: Path, change: Any) -> str:
    manifest = json.loads((bundle.path / "engines" / "engines.json").read_text())
    change(manifest["engines"])
    folder = tmp_path / "changed"
    shutil.copytree(bundle.path, folder)
    rewrite(folder, "engines/engines.json", json.dumps(manifest).encode())
    with pytest.raises(BundleError) as caught:
        read_engines(read_bundle(folder))
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"vtrt", b"ftrt" + bytes(100), b"vtrt" + bytes(100)])
def test_what_is_no_engine_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a TensorRT-RTX engine"):
        read_header(data)


def test_gpus_that_rtx_does_not_serve_need_full_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for architecture, package in (("sm90", "tensorrt"), ("sm100", "tensorrt"), ("sm89", "tensorrt-rtx")):
        with pytest.raises(
            EngineError, match=rf"needs the package {package} for {architecture}: pip install {package}$"
        ):
            import_tensorrt(architecture)
    assert "sm90" not in RTX_ARCHITECTURES


@pytest.mark.parametrize(
    ("slots", "batches", "expected"), [(1, (1, 1), 1), (4, (1, 3), 2), (6, (1, 4), 3), (4, (1, 8), 4)]
)
def test_an_engine_runs_as_many_images_at_once_as_slots_allow(
    slots: int, batches: tuple[int, int], expected: int
) -> None:
    assert tensorrt.largest_batch(slots, *batches) == expected


def test_slots_that_no_batch_divides_are_refused() -> None:
    with pytest.raises(EngineError, match=r"slots 3 is no multiple of the engine's batches, 2\.\.2"):
        tensorrt.largest_batch(3, 2, 2)


def the_package(name: str = RTX, version: str = "1.0") -> Any:
    return types.SimpleNamespace(__name__=name, __version__=version)


def test_an_engine_of_another_version_or_architecture_is_not_taken(
    with_engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = read_engines(with_engines)[0].version
    built: list[tuple[str, str, tuple[str, ...]]] = []

    def build(trt: Any, network: Network, profile: Any, architectures: tuple[str, ...] = ()) -> bytes:
        built.append((trt.__version__, network.path.name, architectures))
        return b"built here"

    monkeypatch.setattr(tensorrt, "build_engine", build)
    data, batches = tensorrt.find_engine(the_package(version=version), with_engines, "sm89", "float16", 2)
    assert (len(data) > 64, batches, built) == (True, (1, 2), [])
    for package, architecture in ((the_package(), "sm89"), (the_package(version=version), "sm86")):
        with pytest.warns(RuntimeWarning, match="builds the float16 engine for sm8. and puts it into"):
            data, batches = tensorrt.find_engine(package, with_engines, architecture, "float16", 2)
        assert (data, batches) == (b"built here", (1, 1))
    with pytest.warns(RuntimeWarning, match="tensorrt builds the float32 engine for sm90"):
        tensorrt.find_engine(the_package("tensorrt"), with_engines, "sm90", "float32", 1)
    assert built == [
        ("1.0", "float16.onnx", ("sm89",)),
        (version, "float16.onnx", ("sm86",)),
        ("1.0", "network.onnx", ()),
    ]
    tensorrt.find_engine(the_package(), with_engines, "sm89", "float16", 2)  # from the cache, without a warning
    assert len(built) == 3


def test_an_engine_that_is_not_what_the_manifest_says_is_refused(with_engines: Bundle) -> None:
    entry = read_engines(with_engines)[0]
    data = (with_engines.path / "engines" / entry.file).read_bytes()
    with pytest.raises(EngineError, match=r"is for .* not"):
        tensorrt.check_header(with_engines, dataclasses.replace(entry, architectures=("sm80",)), data)
    with pytest.raises(EngineError, match="not a TensorRT-RTX engine"):
        tensorrt.check_header(with_engines, entry, data[:-1])


def test_a_bundle_without_a_network_of_that_precision_says_how_to_add_one() -> None:
    bundle = read_bundle(SHIPPED)
    with pytest.raises(EngineError, match=r"has no network of precision float16: sdedit extend .* --tensorrt sm89"):
        tensorrt.find_engine(the_package(), bundle, "sm89", "float16", 1)


# Running them.


def halving(x: np.ndarray) -> np.ndarray:
    return x * np.float32(0.5)


@pytest.fixture
def fake(fake_library: ctypes.CDLL, with_engines: Bundle) -> Iterator[FakeDriver]:
    fake = FakeDriver(fake_library, with_engines.path / "kernels")
    yield fake
    fake.stop()


@pytest.fixture
def stand_in(
    fake: FakeDriver, with_engines: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> StandInTensorRt:
    return in_place_of_tensorrt(fake, with_engines, halving, monkeypatch, tmp_path)


def test_what_the_stand_in_offers_is_the_real_packages() -> None:
    """Run in a process of its own, as above."""
    pytest.importorskip(RTX, reason="tensorrt-rtx is not installed: pip install '.[cuda]'")
    script = "import json, sys, tensorrt_rtx as t; names = json.loads(sys.argv[1]); print([(c, n) for c in names "
    script += "for n in names[c] if not hasattr(getattr(t, c), n)])"
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(REAL_NAMES)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("precision", ["auto", "float16"])
@pytest.mark.parametrize("slots", [1, 2])
def test_an_edit_on_a_stored_engine_is_the_cpus(
    stand_in: StandInTensorRt, fake: FakeDriver, with_engines: Bundle, precision: str, slots: int
) -> None:
    guide, options = np.arange(192, dtype=np.uint8).reshape(8, 8, 3), {"steps": 4, "images": 3, "repeats": 2}
    with Editor.open(with_engines.path, device="cuda", precision=precision, slots=slots) as editor:
        edit = editor.edit(guide, **options)  # type: ignore[arg-type]
    with Editor.open(with_engines.path, engine="onnxruntime") as editor:
        expected = editor.edit(guide, **options)  # type: ignore[arg-type]
    assert [image.pil.tobytes() for image in edit.images] == [image.pil.tobytes() for image in expected.images]
    named = {"name": "tensorrt", "precision": "float32" if precision == "auto" else precision, "threads": None}
    batch = {"batch": 2} if slots == 2 else {}
    assert edit.recipe["engine"] == {"version": f"tensorrt_rtx {stand_in.__version__}", **named, **batch}
    assert fake.graphs_launched > 0
    assert fake.fault is None
    assert fake.counts()["allocations"] == 0


def test_a_recipe_of_the_gpu_is_replayed_there(
    stand_in: StandInTensorRt, with_engines: Bundle, run: Run, guide: Path, out: Path
) -> None:
    on_gpu = ("--bundle", with_engines.path, "--device", "cuda", "--slots", 2)
    assert run("edit", guide, "--out", out, "--steps", 3, *on_gpu)[0] == 0
    code, stdout, stderr = run("replay", out, "--bundle", with_engines.path)
    assert (code, stdout.strip(), stderr) == (0, f"{out}: identical", "")


def test_an_engine_that_cannot_be_captured_runs_eagerly(
    stand_in: StandInTensorRt, fake: FakeDriver, with_engines: Bundle
) -> None:
    stand_in.capturable = False
    with Editor.open(with_engines.path, device="cuda", engine="tensorrt") as editor:
        editor.edit(np.zeros((8, 8, 3), np.uint8), steps=2)
    assert fake.graphs_launched == 0


def test_what_was_compiled_is_kept_for_the_next_process(stand_in: StandInTensorRt, with_engines: Bundle) -> None:
    for _ in range(2):
        Editor.open(with_engines.path, device="cuda").close()
    assert stand_in.compiled == 1


def test_an_engine_that_is_refused_is_one_line_and_leaves_nothing(
    stand_in: StandInTensorRt, fake: FakeDriver, with_engines: Bundle
) -> None:
    stand_in.refuses = True
    with pytest.raises(EngineError, match=r"^tensorrt_rtx .* refuses the engine: the plan is of another version$"):
        Editor.open(with_engines.path, device="cuda")
    assert set(fake.counts().values()) == {0}


def test_an_engine_that_does_not_fit_is_one_line_and_leaves_nothing(
    stand_in: StandInTensorRt, fake: FakeDriver, with_engines: Bundle
) -> None:
    fake.limit = SCRATCH - 1
    with pytest.raises(EngineError, match=r"^fake sm89 is out of memory: 0\.0 MB asked for, 0\.0 MB are free$"):
        Editor.open(with_engines.path, device="cuda")
    fake.limit = 2 * SCRATCH  # room for the engine, not for a slot
    with pytest.raises(
        EngineError, match=r"out of memory: 1 slots of 3x8x8 need 0\.3 MB, 0\.0 MB are free: 0 would fit"
    ):
        Editor.open(with_engines.path, device="cuda")
    assert set(fake.counts().values()) == {0}


def test_doctor_measures_the_engine_on_the_gpu(
    stand_in: StandInTensorRt, with_engines: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detail() -> tuple[str, str]:
        findings = json.loads(run("doctor", "--bundle", with_engines.path, "--json")[1])
        (found,) = [f for f in findings if f["what"] == "engine tensorrt on the GPU"]
        return found["verdict"], found["detail"]

    verdict, said = detail()
    assert (verdict, "captured, error 0.0e+00 of 1e-04 accepted" in said) == ("ok", True)
    stand_in.function = lambda x: x * np.float32(0.501)
    assert detail()[0] == "wrong"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"engine": "openvino"}, "engine 'openvino' is not one of auto, tensorrt, onnxruntime, torch, which"),
        ({"precision": "float8"}, "precision 'float8' is not one of auto, float32, float16, int8, bfloat16, which"),
        ({"engine": "torch"}, "the installed torch .* finds no GPU: install one with CUDA"),
        ({"engine": "onnxruntime", "precision": "float16"}, "precision 'float16' is not one of auto, float32, which"),
        ({"threads": 2}, "threads 2 goes with device cpu"),
        ({"engine": "onnxruntime"}, r"has no CUDA provider: pip uninstall onnxruntime, then .*PATH\[cuda-ort\]"),
    ],
)
def test_what_the_cuda_device_does_not_have_is_refused(
    fake: FakeDriver, with_engines: Bundle, request_: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        Editor.open(with_engines.path, device="cuda", **request_)
    assert set(fake.counts().values()) == {0}
