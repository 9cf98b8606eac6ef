"""Bundles: networks that ask for data outside, arrays that are none, and that damage of any kind never crashes."""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from refusals import assert_refused
from tiny import LEVELS, SHAPE, model, rewrite, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import MANIFEST, NETWORK, REFERENCE, SCHEDULE, Bundle, read_bundle
from sdedit.runtime.bundle.external_data import external_files
from sdedit.runtime.engines import open_engine
from sdedit_ref.sde import cosine

FILES = (MANIFEST, NETWORK, REFERENCE, SCHEDULE)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_bundle(tmp_path_factory.mktemp("pristine") / "bundle")
    return {name: (folder / name).read_bytes() for name in FILES}


# Tensors outside the ONNX file


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="weights", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def in_an_initializer(location: str) -> onnx.ModelProto:
    return model([helper.make_node("Mul", ["x", "weights"], ["out"])], [external(location)])


def constant(location: str) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["weights"], value=external(location))


def in_an_attribute(location: str) -> onnx.ModelProto:
    return model([constant(location)], [])


def in_a_list_of_an_attribute(location: str) -> onnx.ModelProto:
    node = helper.make_node("Odd", [], ["weights"])
    node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(external(location))
    return model([node], [])


def in_sparse_values(location: str) -> onnx.ModelProto:
    sparse = model([], [])
    sparse.graph.sparse_initializer.add().values.CopyFrom(external(location))
    return sparse


def in_a_sparse_attribute(location: str) -> onnx.ModelProto:
    node = helper.make_node("Constant", [], ["weights"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.indices.CopyFrom(external(location))
    return model([node], [])


def in_a_subgraph(location: str) -> onnx.ModelProto:
    branch = helper.make_graph([], "branch", [], [], [external(location)])
    node = helper.make_node("If", ["condition"], ["out"], then_branch=branch, else_branch=branch)
    return model([node], [])


def in_a_subgraph_of_a_subgraph(location: str) -> onnx.ModelProto:
    inner = helper.make_graph([constant(location)], "inner", [], [])
    outer = helper.make_graph([helper.make_node("Loop", [], [], body=inner)], "outer", [], [])
    node = helper.make_node("Odd", [], ["out"])
    node.attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS).graphs.append(outer)
    return model([node], [])


def in_a_function(location: str) -> onnx.ModelProto:
    opset = [helper.make_opsetid("", 18)]
    return model([], [], [helper.make_function("own", "f", [], ["weights"], [constant(location)], opset)])


def in_a_default_of_a_function(location: str) -> onnx.ModelProto:
    function = helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", 18)])
    function.attribute_proto.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(external(location))
    return model([], [], [function])


def in_training(location: str) -> onnx.ModelProto:
    trained = model([], [])
    trained.training_info.add().algorithm.initializer.append(external(location))
    return trained


PLACES = [
    in_an_initializer,
    in_an_attribute,
    in_a_list_of_an_attribute,
    in_sparse_values,
    in_a_sparse_attribute,
    in_a_subgraph,
    in_a_subgraph_of_a_subgraph,
    in_a_function,
    in_a_default_of_a_function,
    in_training,
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", ""])
def test_data_outside_the_network_that_the_manifest_does_not_list(
    bundle: Path, place: Callable[[str], onnx.ModelProto], location: str
) -> None:
    rewrite(bundle, NETWORK, place(location).SerializeToString())
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    assert str(caught.value) == (
        f"bundle {bundle}: network.onnx asks for {location!r}, which bundle.json does not list"
    )


def test_data_outside_the_network_may_be_a_listed_file(bundle: Path) -> None:
    (bundle / "weights.bin").write_bytes(np.float32([0.25]).tobytes())
    rewrite(bundle, NETWORK, in_an_initializer("weights.bin").SerializeToString())
    x = np.ones((1, *SHAPE), np.float32)
    out = np.zeros_like(x)
    open_engine(read_bundle(bundle)).bind({"x": x, "time": np.zeros(1, np.float32)}, out)()
    assert (out == 0.25).all()


def test_every_location_is_found(tmp_path: Path) -> None:
    both = in_an_initializer("a.bin")
    both.graph.node.append(constant("b.bin"))
    both.graph.initializer[0].external_data.add(key="location", value="c.bin")
    onnx.save(both, tmp_path / NETWORK)
    assert external_files((tmp_path / NETWORK).read_bytes()) == {"a.bin", "b.bin", "c.bin"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the ONNX file is empty"),
        (b"\x3a\x7f", "the ONNX file is truncated"),
        (b"\x3a", "the ONNX file is truncated"),
        (b"\x0d\x00", "the ONNX file is truncated"),
        (b"\x3a" + b"\xff" * 10, "more than 64 bits"),
        (b"\x00\x00", "invalid field tag"),
        (b"\x0b", "wire type 3"),
        (b"not an ONNX file", "the ONNX file"),
    ],
)
def test_a_network_that_is_no_protobuf(bundle: Path, data: bytes, message: str) -> None:
    rewrite(bundle, NETWORK, data)
    assert_refused(bundle, f"network.onnx: .*{message}")


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field of the protobuf wire format, of less than 2^14 bytes."""
    return bytes([number << 3 | 2, len(content) & 0x7F | 0x80, len(content) >> 7]) + content


def test_a_network_that_nests_too_deeply(bundle: Path) -> None:
    graph = b""
    for _ in range(40):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    rewrite(bundle, NETWORK, field(7, graph))
    assert_refused(bundle, "network.onnx: the ONNX file nests too deeply")


# Arrays


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def scaled(column: int, factor: float) -> np.ndarray:
    table = cosine(LEVELS)
    table[:, column] *= factor
    return table


def with_nan() -> np.ndarray:
    table = cosine(LEVELS)
    table[3, 2] = np.nan
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (cosine(LEVELS).astype(np.float32), r"is float32 \[20, 3\], expected float64 \[20, 3\]"),
        (cosine(LEVELS).astype(">f8"), r"is >f8 \[20, 3\], expected"),
        (cosine(LEVELS)[:, :2], r"is float64 \[20, 2\], expected"),
        (cosine(LEVELS)[0], r"is float64 \[3\], expected"),
        (np.zeros((0, 3)), r"is float64 \[0, 3\], expected"),
        (with_nan(), "holds a value that is not finite"),
        (scaled(0, -1), r"alpha must lie in \[0, 1\]"),
        (scaled(0, 1.1), r"alpha must lie in \[0, 1\]"),
        (scaled(1, 0), "sigma above 0"),
        (cosine(LEVELS)[::-1], "from clean to noisy"),
        (np.repeat(cosine(LEVELS)[::2], 2, axis=0), "from clean to noisy"),
        (cosine(LEVELS + 1), r"is float64 \[21, 3\], expected float64 \[20, 3\]"),
    ],
    ids=lambda value: "" if isinstance(value, np.ndarray) else None,
)
def test_a_damaged_schedule(bundle: Path, table: np.ndarray, message: str) -> None:
    rewrite(bundle, SCHEDULE, npy(table))
    assert_refused(bundle, rf"schedule\.npy:? .*{message}")


def header(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x09\x00",
        b"PK\x03\x04",
        b"\x80\x04N.",
        header(""),
        header("{"),
        header("'''"),
        header("[" * 9000),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3)}" % 10**30),  # noqa: UP031 - braces
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 3)}" % 10**12),  # noqa: UP031 - braces
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}"),
        header("{'descr': '<f8', 'fortran_order': False, 'shape': (20, 3)}"),
        header("{'descr': 'no type', 'fortran_order': False, 'shape': (20, 3)}"),
    ],
    ids=lambda data: repr(data[-60:]),
)
def test_a_schedule_that_is_no_array(bundle: Path, data: bytes) -> None:
    rewrite(bundle, SCHEDULE, data)
    assert_refused(bundle, r"schedule\.npy is not a readable array")


def test_an_archive_of_arrays_is_no_array(bundle: Path) -> None:
    file = io.BytesIO()
    np.savez(file, table=cosine(LEVELS))
    rewrite(bundle, SCHEDULE, file.getvalue())
    assert_refused(bundle, r"schedule\.npy is not a readable array")


class Intruder:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickled_array_is_not_unpickled(bundle: Path, tmp_path: Path) -> None:
    rewrite(bundle, SCHEDULE, npy(np.array([Intruder(tmp_path / "executed")], object)))
    assert_refused(bundle, r"schedule\.npy is not a readable array: Object arrays cannot be loaded")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("outputs", "found"),
    [
        (np.zeros((2, *SHAPE), np.float32), r"float32 \[2, 3, 8, 8\]"),
        (np.zeros((3, 3, 8, 9), np.float32), r"float32 \[3, 3, 8, 9\]"),
        (np.zeros((3, *SHAPE)), r"float64 \[3, 3, 8, 8\]"),
    ],
)
def test_a_reference_of_a_wrong_shape(bundle: Path, outputs: np.ndarray, found: str) -> None:
    rewrite(bundle, REFERENCE, npy(outputs))
    with pytest.raises(BundleError, match=rf"reference\.npy is {found}, expected float32 \[3, 3, 8, 8\]"):
        read_bundle(bundle).reference()


# Damage of any kind


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with bytes flipped, inserted or deleted somewhere, or cut off."""
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "insert", "delete", "truncate"]))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    if kind == "delete":
        return data[:at] + data[at + draw(st.integers(1, 8)) :]
    return data[:at]


def read_or_refuse(path: Path) -> Bundle | None:
    """Read the bundle; None if it is refused, on one line."""
    try:
        return read_bundle(path)
    except BundleError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    return None


def in_folder(files: dict[str, bytes], folder: str) -> Path:
    for name, data in files.items():
        (Path(folder) / name).write_bytes(data)
    return Path(folder)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from([NETWORK, SCHEDULE, REFERENCE]))
def test_any_damage_to_a_file_is_noticed(pristine: dict[str, bytes], data: st.DataObject, name: str) -> None:
    files = {**pristine, name: data.draw(damaged(pristine[name]))}
    with tempfile.TemporaryDirectory() as folder, pytest.raises(BundleError, match="it was altered"):
        read_bundle(in_folder(files, folder))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_manifest_is_refused_or_read_as_it_stands(pristine: dict[str, bytes], data: st.DataObject) -> None:
    text = data.draw(damaged(pristine[MANIFEST]))
    with tempfile.TemporaryDirectory() as folder:
        read = read_or_refuse(in_folder({**pristine, MANIFEST: text}, folder))
    if read is not None:
        assert read.manifest.to_json() == json.loads(text)
        assert read.sha256 == hashlib.sha256(text).hexdigest()
        assert np.array_equal(read.schedule.table, cosine(LEVELS))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), name=st.sampled_from([NETWORK, SCHEDULE]))
def test_damage_with_the_right_hash_never_crashes(pristine: dict[str, bytes], data: st.DataObject, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = in_folder(pristine, folder)
        rewrite(path, name, data.draw(damaged(pristine[name])))
        read_or_refuse(path)


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(PLACES).flatmap(lambda place: damaged(place("weights.bin").SerializeToString())),
    )
)
def test_no_bytes_crash_the_search_for_external_files(data: bytes) -> None:
    try:
        found = external_files(data)
    except ValueError:
        return
    assert all(isinstance(location, str) for location in found)
