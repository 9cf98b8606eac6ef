"""Engines: the same network on each, the same bytes twice, what they refuse, and what "auto" means."""

import dataclasses
import importlib
import importlib.machinery
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny import model, rewrite, write_bundle, write_free_bundle

from sdedit.errors import EngineError
from sdedit.runtime import Editor, engines, read_bundle
from sdedit.runtime.bundle import NETWORK, SHIPPED
from sdedit.runtime.bundle.reading import Network
from sdedit.runtime.checks.parity import TOLERANCES, judged, measure_error
from sdedit.runtime.engines import installed_engines, load_engine, memory, open_engine, opening
from sdedit.runtime.engines import openvino as openvino_engine
from sdedit.runtime.engines.components import OnnxRuntimeComponent, OpenVinoComponent
from sdedit.runtime.engines.importing import import_onnxruntime, import_openvino, open_core
from sdedit.runtime.engines.names import first_engine
from sdedit.runtime.engines.onnxruntime import open_session
from sdedit.runtime.engines.remembered import Measured
from sdedit.runtime.machine import available_processors
from sdedit.runtime.schedule import Schedule

ENGINES = tuple(engines.ENGINES["cpu"])

GUIDE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_runs_what_it_was_told_and_agrees_with_the_reference(name: str, threads: int) -> None:
    bundle = read_bundle(SHIPPED)
    engine = load_engine(bundle, name, "float32", threads)
    assert (engine.name, engine.precision, engine.threads, engine.batch) == (name, "float32", threads, 1)
    assert engine.version[0].isdigit()
    assert measure_error(bundle, engine) <= TOLERANCES["float32"]


@pytest.mark.parametrize("name", ENGINES)
def test_edits_are_the_same_bytes_twice_and_in_every_slot(name: str) -> None:
    with Editor.open(engine=name, threads=2, slots=3) as editor:
        first, again = (editor.edit(GUIDE, steps=4, images=3, seed=1) for _ in range(2))
    with Editor.open(engine=name, threads=2) as editor:
        alone = editor.edit(GUIDE, steps=4, images=3, seed=1)
    for a, b, c in zip(first.images, again.images, alone.images, strict=True):
        assert a.pil.tobytes() == b.pil.tobytes() == c.pil.tobytes()


def test_engines_give_nearly_the_same_edit() -> None:
    """Their outputs differ by 1e-5 of the largest; 8 steps do not make a grey level of it, but one may round apart."""
    images = []
    for name in ENGINES:
        with Editor.open(engine=name, threads=1) as editor:
            images.append(np.asarray(editor.edit(GUIDE, steps=8).images[0].pil).astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1


@pytest.mark.parametrize("name", ENGINES)
def test_the_network_works_in_our_buffers(name: str, tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "tiny"))
    engine = load_engine(bundle, name, "float32", 1)
    state = np.arange(5 * 192, dtype=np.float32).reshape(5, 3, 8, 8)
    x, out = state[2:3], np.full((3, 3, 8, 8), np.nan, np.float32)
    evaluate = engine.bind({"x": x, "time": np.zeros(1, np.float32)}, out[1:2])
    evaluate()
    assert np.array_equal(out[1:2], x / 2)
    x += 1
    evaluate()
    assert np.array_equal(out[1:2], x / 2)
    assert np.isnan(out[0]).all()
    assert np.isnan(out[2]).all()


@pytest.mark.parametrize("name", ENGINES)
def test_a_network_that_an_engine_refuses_is_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "tiny")
    wrong = model([helper.make_node("MatMul", ["x", "time"], ["out"], axis=3)], [])
    for data in (onnx.ModelProto(ir_version=8).SerializeToString(), wrong.SerializeToString()):
        rewrite(folder, NETWORK, data)
        with pytest.raises(EngineError) as caught:
            load_engine(read_bundle(folder), name, "float32", 1)
        assert "\n" not in str(caught.value)
        assert NETWORK in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ENGINES)
def test_a_network_of_another_signature_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "tiny")
    graph = onnx.load(folder / NETWORK)
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    graph.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    rewrite(folder, NETWORK, graph.SerializeToString())
    with pytest.raises(EngineError, match=r"float32 x\[.*4, 8, 8\]; the bundle says .*float32 x\[.B., 3, 8, 8\]"):
        load_engine(read_bundle(folder), name, "float32", 1)


@pytest.mark.parametrize("halves", [True, False], ids=["in halves", "at once"])
def test_onnxruntime_lets_go_of_the_file_that_it_has_loaded(
    tmp_path: Path, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = import_onnxruntime()
    if not halves:
        monkeypatch.delattr(onnxruntime.InferenceSession, "_from_initialized_c_session")
    network = read_bundle(write_bundle(tmp_path / "tiny")).read_network()
    data = network.data
    before = sys.getrefcount(data)
    session = open_session(network, 1)
    assert network.data == b""
    assert sys.getrefcount(data) == before - 1, "neither the session nor the network has it"
    assert [value.name for value in session.get_outputs()] == ["out"]


def test_bfloat16_is_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(SHIPPED)
    with pytest.raises(EngineError, match="not one of auto, float32, which engine onnxruntime on device cpu has"):
        open_engine(bundle, engine="onnxruntime", precision="bfloat16")
    monkeypatch.setattr(openvino_engine, "has_bfloat16", lambda core: False)
    with pytest.raises(EngineError, match="has no instructions for it; accepted: float32"):
        open_engine(bundle, engine="auto", precision="bfloat16")


def test_what_runs_is_read_back_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without bfloat16 OpenVINO runs float32 without a word; that is an error here."""
    core = open_core(import_openvino())
    if openvino_engine.has_bfloat16(core):
        assert open_engine(read_bundle(SHIPPED), precision="bfloat16").precision == "bfloat16"
        return
    monkeypatch.setattr(openvino_engine, "has_bfloat16", lambda core: True)
    with pytest.raises(EngineError, match="openvino runs float32 on"):
        open_engine(read_bundle(SHIPPED), engine="openvino", precision="bfloat16")


LEAVE = """
import faulthandler, signal, subprocess
import numpy as np
from sdedit.runtime import Editor
from sdedit.runtime.engines.signal_stack import signal_stack

faulthandler.enable()
signal.signal(signal.SIGCHLD, lambda *_: None)
own = signal_stack()
first, second = Editor.open(engine={name!r}, threads=2), Editor.open(engine={name!r}, threads=1, slots=2)
for editor in (first, second):
    editor.edit(np.zeros((64, 64, 3), np.uint8), steps=2)
    editor.edit(np.zeros((64, 64, 3), np.uint8), steps=2, size="72x64")
first.close()
del first, editor
second.close()
del second
left = signal_stack()
assert (left.address, left.size) == (own.address, own.size)
subprocess.run(["true"], check=True)  # its end is a signal
print("alive")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other signal stacks")
@pytest.mark.parametrize("name", ENGINES)
def test_a_host_keeps_its_stack_for_signals(name: str) -> None:
    """OpenVINO left the thread with one that was freed, and the next signal ended the process."""
    done = subprocess.run([sys.executable, "-c", LEAVE.format(name=name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_the_environment_does_not_change_the_threads() -> None:
    script = (
        "from sdedit.runtime import Editor\n"
        "for name in ('onnxruntime', 'openvino'):\n"
        "    print(Editor.open(engine=name, threads=2).device.engine.threads)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**__import__("os").environ, "OMP_NUM_THREADS": "1", "OV_NUM_THREADS": "1"},
    )
    assert done.stdout.split() == ["2", "2"]


def test_low_precision_is_judged_where_the_input_is_as_large_as_an_image() -> None:
    bundle = read_bundle(SHIPPED)  # sigma at levels 1, 250, 500, 750, 1000: 0.006, 0.39, 0.71, 0.93, 1
    assert judged(bundle, "float32") == [0, 1, 2, 3, 4]
    assert judged(bundle, "bfloat16") == judged(bundle, "int8") == [2, 3, 4]


def test_the_last_level_is_always_judged(tmp_path: Path) -> None:
    bundle = read_bundle(write_bundle(tmp_path / "tiny"))
    quiet = dataclasses.replace(bundle, schedule=Schedule(bundle.schedule.table * np.array([1.0, 0.1, 1.0])))
    assert judged(quiet, "int8") == [2]


# auto


def chosen(monkeypatch: pytest.MonkeyPatch, memory: list[Measured], *asked: object) -> tuple[object, ...]:
    monkeypatch.setattr("sdedit.runtime.engines.opening.remembered", lambda bundle: memory)
    made = opening.choose(read_bundle(SHIPPED), *asked)  # type: ignore[arg-type]
    return made.engine, made.precision, made.threads, made.origin


def test_without_a_measurement_auto_is_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    every = available_processors()
    assert chosen(monkeypatch, [], "auto", "auto", None) == ("onnxruntime", "float32", every, "rule")
    assert chosen(monkeypatch, [], "auto", "bfloat16", None) == ("openvino", "bfloat16", every, "rule")
    assert chosen(monkeypatch, [], "openvino", "auto", 3) == ("openvino", "float32", 3, "asked")


def test_auto_takes_the_fastest_measured_of_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = [
        Measured("openvino", "bfloat16", 4, 1e-2, 1.0, 1.0, 1.0),
        Measured("openvino", "float32", 4, 1e-6, 2.0, 2.0, 2.0),
        Measured("onnxruntime", "float32", 2, 1e-6, 3.0, 3.0, 3.0),
    ]
    assert chosen(monkeypatch, memory, "auto", "auto", None) == ("openvino", "float32", 4, "tuned")
    assert chosen(monkeypatch, memory, "auto", "bfloat16", None) == ("openvino", "bfloat16", 4, "tuned")
    assert chosen(monkeypatch, memory, "onnxruntime", "auto", None) == ("onnxruntime", "float32", 2, "tuned")
    assert chosen(monkeypatch, memory, "auto", "auto", 2) == ("onnxruntime", "float32", 2, "tuned")
    assert chosen(monkeypatch, memory, "auto", "auto", 7) == ("onnxruntime", "float32", 7, "rule")


@pytest.mark.parametrize("missing", ENGINES)
def test_one_engine_is_enough(missing: str, tmp_path: Path) -> None:
    """The test runs in a process in which the other engine cannot be imported."""
    script = (
        "import importlib.util, sys\n"
        f"sys.modules[{missing!r}] = None\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name == {missing!r} else real(name)\n"
        "from sdedit.runtime import Editor\n"
        "print(Editor.open().edit('guide.png', t0=0.2, steps=1).recipe['engine']['name'])"
    )
    from PIL import Image

    Image.fromarray(GUIDE).save(tmp_path / "guide.png")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split() == [name for name in ENGINES if name != missing], done.stderr


def test_openvino_is_imported_without_its_telemetry() -> None:
    script = (
        "import sys\n"
        "from sdedit.runtime.engines.importing import import_openvino\n"
        "import_openvino()\n"
        "print('openvino' in sys.modules, 'openvino_telemetry' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, []),
        ({"onnxruntime": "capi/libonnxruntime.so", "torch": "lib/libtorch_cpu.so"}, []),
        (
            {"onnxruntime": "capi/libonnxruntime_providers_cuda.so", "torch": "lib/torch_cuda.dll"},
            ["onnxruntime", "torch"],
        ),
        ({"onnxruntime": "capi/libonnxruntime.so", "torch": "lib/libtorch_cuda.so"}, ["torch"]),
        ({"tensorrt": "tensorrt.so"}, ["tensorrt"]),
    ],
)
def test_a_build_without_cuda_is_no_engine_of_a_gpu(
    files: dict[str, str], found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So "auto" takes the next engine, where onnxruntime for the CPU is beside torch for GPUs."""
    for package, file in files.items():
        path = tmp_path / package / file
        path.parent.mkdir(parents=True)
        path.touch()
        (tmp_path / package / "__init__.py").touch()
    find = importlib.machinery.PathFinder.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: find(name, [str(tmp_path)]))
    assert installed_engines("cuda") == found
    if found:
        assert first_engine("cuda", "float32") == found[0]
    else:
        with pytest.raises(EngineError, match=r"^no engine of device cuda for float32 is installed \(tensorrt, onn"):
            first_engine("cuda", "float32")


class OneComponent:
    """A bundle of one component, whose output is also the output of the node before."""

    def read_network(self, name: str) -> Network:
        nodes = [helper.make_node("Relu", ["image"], ["inner"]), helper.make_node("Identity", ["inner"], ["latent"])]
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2]) for name in ("image", "latent")]
        graph = helper.make_graph(nodes, "component", values[:1], values[1:])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return Network(Path(name), made.SerializeToString())


@pytest.mark.parametrize("name", installed_engines())
def test_a_components_outputs_have_the_graphs_names(name: str) -> None:
    component = {"onnxruntime": OnnxRuntimeComponent, "openvino": OpenVinoComponent}[name]
    found = component(OneComponent(), "encoder.onnx", 1)(  # type: ignore[arg-type]
        {"image": np.array([[-1, 2]], np.float32)}
    )
    assert found["latent"].tolist() == [[0, 2]]


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino is not installed")
@pytest.mark.parametrize(("limit", "kept"), [(1.0, 1), (2e9, 5)])
def test_openvino_keeps_as_many_shapes_as_their_weights_allow(
    limit: float, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "KEPT_BYTES", limit)
    engine = load_engine(read_bundle(write_free_bundle(tmp_path / "free")), "openvino", "float32", 1)
    assert isinstance(engine, openvino_engine.OpenVinoEngine)
    for side in (8, 12, 16, 20, 24, 28, 8, 28):
        x, out = np.full((1, 3, side, side), side, np.float32), np.empty((1, 3, side, side), np.float32)
        engine.bind({"x": x, "time": np.zeros(1, np.float32)}, out)()
        assert (out == side / 2).all()
        assert len(engine._compiled) <= kept
    assert len(engine._compiled) == kept
