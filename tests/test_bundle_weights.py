"""Large weights in a file of their own as inputs: the same function, verified as they are read, once in memory."""

import gc
import random
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_mutants import mutate_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny import model, rewrite
from tiny_latent import LENGTH, STATE, WIDTH, write_latent_bundle

from sdedit.errors import BundleError, EngineError
from sdedit.export.onnx_nodes import read_model
from sdedit.runtime.bundle import NETWORK, Bundle, read_bundle
from sdedit.runtime.bundle import weights as apart
from sdedit.runtime.bundle.files import read_pieces
from sdedit.runtime.bundle.graph import check_graph
from sdedit.runtime.bundle.protobuf import encode
from sdedit.runtime.bundle.weights import GRAPH, OUTPUT, large_weights, without_weights
from sdedit.runtime.engines import load_engine, onnxruntime
from sdedit.runtime.engines.memory import check_loading

RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "conv.w": RANDOM.standard_normal((4, 4, 3, 3)).astype(np.float32),
    "conv.b": RANDOM.standard_normal(4).astype(np.float32),
    "mix": RANDOM.standard_normal((4, 4, 1, 1)).astype(np.float32),
}
OUTSIDE = "network.onnx.data"


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the bias counts as large."""
    monkeypatch.setattr(apart, "LEAST_BYTES", 60)


def write_network(folder: Path, kind: str) -> np.ndarray:
    """A latent network with these weights as initializers; returns what it makes of ones."""
    conv = helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["y"], pads=[1, 1, 1, 1])
    nodes = [conv, helper.make_node("Conv", ["y", "mix"], ["out"])]
    values = WEIGHTS
    if kind.startswith("half"):
        values = {f"{name}.half": value.astype(np.float16) for name, value in WEIGHTS.items()}
        casts = [helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT) for name in WEIGHTS]
        nodes = [*casts, *nodes]
    tensors = [numpy_helper.from_array(value, name) for name, value in values.items()]
    latent = ["batch", 4, "height", "width"]
    context = ["batch", LENGTH, WIDTH]
    shapes = {"x": latent, "time": ["batch"], "context": context}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, latent)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    expected = run(made.SerializeToString(), {})
    if kind.endswith("outside"):
        rewrite(folder, OUTSIDE, put_outside(made))
    rewrite(folder, NETWORK, made.SerializeToString())
    return expected


def put_outside(network: onnx.ModelProto) -> bytes:
    """Move the values of all initializers to a file, which is returned; none is aligned there."""
    data = b"pad"
    for tensor in network.graph.initializer:
        place = {"location": OUTSIDE, "offset": str(len(data)), "length": str(len(tensor.raw_data))}
        data += tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
    return data


def run(data: bytes, weights: dict[str, np.ndarray]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    out: np.ndarray = session.run(["out"], {**ones(), **weights})[0]
    return out


def ones() -> dict[str, np.ndarray]:
    shapes = {"x": (1, *STATE), "time": (1,), "context": (1, LENGTH, WIDTH)}
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


@pytest.fixture(params=["float32 outside", "half outside"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Bundle, np.ndarray]:
    folder = write_latent_bundle(tmp_path / "bundle")
    expected = write_network(folder, request.param)
    return read_bundle(folder), expected


def test_the_network_computes_the_same(case: tuple[Bundle, np.ndarray]) -> None:
    """The bias becomes an initializer with its values; the rest is float32 and aligned."""
    bundle, expected = case
    network, weights = bundle.read_network_apart()
    assert weights.keys() == {"conv.w", "mix"}
    assert all(value.dtype == np.float32 and value.flags.aligned for value in weights.values())
    assert check_graph(network.data) == []
    assert np.abs(run(network.data, weights) - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["float32", "half", "float32 outside", "half outside"])
def test_the_engine_runs_it(tmp_path: Path, kind: str) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    expected = write_network(folder, kind)
    inputs, out = ones(), np.empty((1, *STATE), np.float32)
    load_engine(read_bundle(folder), "onnxruntime", "float32", 1).bind(inputs, out)()
    assert np.abs(out - expected).max() <= 1e-6 * np.abs(expected).max()


def test_the_weights_live_as_long_as_a_binding_of_them(case: tuple[Bundle, np.ndarray]) -> None:
    bundle, expected = case
    engine = load_engine(bundle, "onnxruntime", "float32", 1)
    assert isinstance(engine, onnxruntime.OnnxRuntimeEngine)
    alive = weakref.ref(engine._weights["mix"])
    inputs, out = ones(), np.empty((1, *STATE), np.float32)
    evaluate = engine.bind(inputs, out)
    del engine
    gc.collect()
    assert alive() is not None
    evaluate()
    assert np.abs(out - expected).max() <= 1e-6 * np.abs(expected).max()
    del evaluate
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("kind", ["float32 outside", "half outside"])
def test_export_takes_them_into_the_model(tmp_path: Path, kind: str) -> None:
    """The file has two names, as parts of a bundle that is extended have: onnx itself reads no such file."""
    folder = write_latent_bundle(tmp_path / "bundle")
    expected = write_network(folder, kind)
    (tmp_path / "second name").hardlink_to(folder / OUTSIDE)
    model = read_model(read_bundle(folder).read_network())
    assert np.array_equal(run(model.SerializeToString(), {}), expected)


def large_outside(network: onnx.ModelProto) -> list[str]:
    """The names of the inputs that this network's weights become once they are in a file of their own."""
    put_outside(network)
    return [weight.name for weight in large_weights(network.SerializeToString())]


def test_a_weight_that_is_needed_in_half_stays() -> None:
    """It is cast twice here, or goes into an operator as it is; neither is written by export."""
    half = numpy_helper.from_array(WEIGHTS["mix"].astype(np.float16), "half")
    casts = [helper.make_node("Cast", ["half"], [name], to=TensorProto.FLOAT) for name in ("a", "b")]
    assert large_outside(model(casts[:1], [half])) == ["a"]
    assert large_outside(model([*casts, helper.make_node("Add", ["a", "b"], ["out"])], [half])) == []
    other = helper.make_node("Cast", ["half"], ["out"], to=TensorProto.DOUBLE)
    assert large_outside(model([other], [half])) == []


def test_a_weight_in_the_onnx_file_stays() -> None:
    """It is in memory once as well when the file's bytes are let go, and an engine is faster with it."""
    network = model([helper.make_node("Add", ["x", "table"], ["out"])], [])
    network.graph.initializer.append(numpy_helper.from_array(WEIGHTS["mix"], "table"))
    assert large_weights(network.SerializeToString()) == []
    assert onnx.load_from_string(without_weights(network.SerializeToString(), [], {})) == network


@pytest.mark.parametrize("half", [False, True])
def test_a_weight_that_is_an_input_or_output_already_stays(half: bool) -> None:
    """Older files list all initializers as inputs."""
    table = WEIGHTS["mix"].astype(np.float16 if half else np.float32)
    stored = "half" if half else "table"
    cast = [helper.make_node("Cast", ["half"], ["table"], to=TensorProto.FLOAT)] if half else []
    add = helper.make_node("Add", ["x", "table"], ["out"])
    network = model([*cast, add], [numpy_helper.from_array(table, stored)])
    put_outside(network)
    assert [weight.name for weight in large_weights(network.SerializeToString())] == ["table"]
    for values in (network.graph.input, network.graph.output):
        for name in {"table", stored}:
            values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4, 1, 1]))
            assert large_weights(network.SerializeToString()) == []
            del values[-1]


def test_malformed_outputs_are_one_line(tmp_path: Path) -> None:
    """check_graph does not read inputs and outputs."""
    folder = write_latent_bundle(tmp_path / "bundle")
    write_network(folder, "half outside")
    network = (folder / NETWORK).read_bytes()
    broken = encode(GRAPH, encode(OUTPUT, b"\xff"))  # protobuf joins several graphs of a file
    rewrite(folder, NETWORK, network + broken)
    bundle = read_bundle(folder)
    with pytest.raises(BundleError, match=r"network\.onnx: the ONNX file is truncated$"):
        bundle.read_network_apart()


def test_what_the_check_accepts_can_be_taken_apart(tmp_path: Path) -> None:
    """A damaged file is refused with one line, or is a network whose parts fit together."""
    folder = write_latent_bundle(tmp_path / "bundle")
    write_network(folder, "half outside")
    network, data = (folder / NETWORK).read_bytes(), (folder / OUTSIDE).read_bytes()
    places = {place.name: data[place.offset : place.offset + place.length] for place in check_graph(network)}
    chance = random.Random(0)
    taken = 0
    for _ in range(3000):
        damaged = mutate_bytes(chance, network)
        try:
            check_graph(damaged)
            weights = large_weights(damaged)
        except ValueError:
            continue
        assert check_graph(without_weights(damaged, weights, {})) is not None
        known = [weight for weight in weights if weight.stored in places]
        assert all(weight.values(places[weight.stored]).shape == weight.dims for weight in known)
        taken += bool(weights)
    assert taken > 30


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1] + b"?", "network.onnx.data does not have the hash"),
        (lambda data: b"?" + data[1:], "network.onnx.data does not have the hash"),
        (lambda data: data[:-5], r"network\.onnx\.data ends at byte \d+: it was altered"),
        (lambda data: data + b"?", "network.onnx.data does not have the hash"),
        (lambda data: b"", "network.onnx.data ends at byte 0: it was altered"),
    ],
)
def test_a_file_that_changes_after_the_bundle_was_opened_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    write_network(folder, "half outside")
    bundle = read_bundle(folder)
    (folder / OUTSIDE).write_bytes(change((folder / OUTSIDE).read_bytes()))
    with pytest.raises(BundleError, match=message):
        bundle.read_network_apart()
    with pytest.raises((BundleError, EngineError), match=message):
        load_engine(bundle, "onnxruntime", "float32", 1)


def test_weights_that_overlap_are_refused(tmp_path: Path) -> None:
    folder = write_latent_bundle(tmp_path / "bundle")
    write_network(folder, "float32 outside")
    entry = read_bundle(folder).manifest.files[OUTSIDE]
    with pytest.raises(BundleError, match=r"two weights overlap at byte 7 of network\.onnx\.data"):
        read_pieces(folder, OUTSIDE, entry, [slice(0, 8), slice(7, 9)], lambda number, piece: None)


@settings(max_examples=100, deadline=None)
@given(cuts=st.lists(st.integers(0, 500), max_size=8).map(sorted), data=st.binary(min_size=500, max_size=600))
def test_pieces_are_those_of_the_file(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], data: bytes) -> None:
    from sdedit.runtime.bundle.files import FileEntry, file_sha256

    folder = tmp_path_factory.mktemp("pieces")
    (folder / "file").write_bytes(data)
    pieces = [slice(begin, stop) for begin, stop in zip(cuts[::2], cuts[1::2], strict=False)]
    found: list[tuple[int, bytes]] = []
    entry = FileEntry(file_sha256(folder / "file"), len(data))
    read_pieces(folder, "file", entry, pieces, lambda number, piece: found.append((number, piece)))
    assert found == [(number, data[piece]) for number, piece in enumerate(pieces)]


@pytest.mark.parametrize(("kind", "copies"), [("float32", 2), ("half", 3), ("float32 outside", 1), ("half outside", 2)])
def test_the_memory_that_loading_needs(kind: str, copies: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In copies of the file: onnxruntime has weights in another file once, in float32; else engines have two copies."""
    folder = write_latent_bundle(tmp_path / "bundle")
    write_network(folder, kind)
    bundle = read_bundle(folder)
    parity = bundle.manifest.parity
    object.__setattr__(parity, "weights", kind.split()[0])
    size = sum(entry.bytes for name, entry in bundle.manifest.files.items() if name in (NETWORK, OUTSIDE))
    for engine, wanted in (("onnxruntime", copies), ("openvino", 3 if kind.startswith("half") else 2)):
        monkeypatch.setattr("sdedit.runtime.engines.memory.available_memory", lambda: wanted * size)  # noqa: B023
        check_loading(bundle, NETWORK, engine)
        monkeypatch.setattr("sdedit.runtime.engines.memory.available_memory", lambda: wanted * size - 1)  # noqa: B023
        with pytest.raises(EngineError, match="needs at least"):
            check_loading(bundle, NETWORK, engine)
