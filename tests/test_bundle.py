"""Bundles: what is refused and how it is said, that damage never crashes, and that writing is all or nothing."""

import hashlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny import FIELDS, LEVELS, PARITY_LEVELS, SHAPE, halving_network, model, rewrite, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import (
    MANIFEST,
    NETWORK,
    REFERENCE,
    SCHEDULE,
    SHIPPED,
    Bundle,
    read_bundle,
    staged,
    write_manifest,
)
from sdedit.runtime.engines import open_engine
from sdedit.runtime.onnx_data import external_files
from sdedit_ref.sde import cosine

FILES = (MANIFEST, NETWORK, REFERENCE, SCHEDULE)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = write_bundle(tmp_path_factory.mktemp("pristine") / "bundle")
    return {name: (folder / name).read_bytes() for name in FILES}


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        read_bundle(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_bytes())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def set_field(bundle: Path, dotted: str, value: object) -> None:
    *parents, last = dotted.split(".")

    def change(manifest: dict[str, Any]) -> None:
        part = manifest
        for parent in parents:
            part = part[parent]
        part[last] = value

    edit_manifest(bundle, change)


def list_file(bundle: Path, name: str, data: bytes) -> None:
    """Let the manifest list `name` with the size and hash of `data`."""
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit_manifest(bundle, lambda manifest: manifest["files"].update({name: entry}))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


# What is read


def test_a_bundle_is_read_as_it_was_written(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert (read.name, read.prediction, read.shape, read.network) == ("tiny", "eps", SHAPE, bundle / NETWORK)
    assert read.sha256 == hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    assert np.array_equal(read.schedule.table, cosine(LEVELS))
    levels, outputs = read.reference()
    assert levels == PARITY_LEVELS
    assert outputs.shape == (len(PARITY_LEVELS), *SHAPE)


def test_a_bundle_runs(bundle: Path) -> None:
    x = np.linspace(-1, 1, 192, dtype=np.float32).reshape(1, *SHAPE)
    out = np.full_like(x, np.nan)
    open_engine(read_bundle(bundle)).bind(x, np.zeros(1, np.float32), out)()
    assert np.array_equal(out, x / 2)


def test_the_shipped_bundle_is_sound() -> None:
    shipped = read_bundle(SHIPPED)
    levels, outputs = shipped.reference()
    assert shipped.name == "earth64"
    assert outputs.shape == (len(levels), *shipped.shape)


def test_a_path_may_be_a_string_and_a_link(bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(bundle)
    assert read_bundle(str(link)).sha256 == read_bundle(bundle).sha256


# The folder and its manifest


def test_a_missing_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "no such folder")


def test_a_file_where_a_folder_is_expected(bundle: Path) -> None:
    assert_refused(bundle / NETWORK, "not a folder")


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("a" * 300), "cannot be read: File name too long|no such folder")


def test_a_missing_manifest(bundle: Path) -> None:
    (bundle / MANIFEST).unlink()
    assert_refused(bundle, r"bundle\.json cannot be read: No such file")


def test_a_manifest_of_many_megabytes(bundle: Path) -> None:
    with (bundle / MANIFEST).open("ab") as file:
        file.truncate(10_000_000)
    assert_refused(bundle, r"bundle\.json is larger than 1048576 bytes")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"{'revision': 1}", b"\xff\xfe\xfd", b"\x80", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000],
    ids=["empty", "open", "quotes", "utf-16", "utf-8", "nested lists", "nested objects", "long number"],
)
def test_a_manifest_that_is_no_json(bundle: Path, text: bytes) -> None:
    (bundle / MANIFEST).write_bytes(text)
    assert_refused(bundle, r"bundle\.json is not valid JSON")


def test_revision_1_is_read_as_what_it_meant(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    for key in ("classes", "null_label"):
        del manifest[key]
    del manifest["parity"]["engines"]
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "revision": 1}))
    read = read_bundle(bundle)
    assert (read.classes, read.null_label, read.manifest["parity"]["engines"]) == (0, None, {})


def test_revision_1_has_no_labels(bundle: Path) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "revision": 1, "conditioning": "label"}))
    assert_refused(bundle, "classes 0 is not in 1..1000000")


@pytest.mark.parametrize("text", ["[]", "null", "1", '"revision"', "{}", '{"revision": "1"}', '{"revision": true}'])
def test_a_manifest_without_a_revision(bundle: Path, text: str) -> None:
    (bundle / MANIFEST).write_text(text)
    assert_refused(bundle, r"bundle\.json states no revision")


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        (3, r"revision 3 is not in \(1, 2\).*: a newer sdedit is needed"),
        (0, r"revision 0 is not in .*: export it again"),
    ],
)
def test_another_revision_says_what_to_do(bundle: Path, revision: int, message: str) -> None:
    (bundle / MANIFEST).write_text(json.dumps({"revision": revision, "what": "we cannot know"}))
    assert_refused(bundle, message)


@pytest.mark.parametrize("key", [*FIELDS, "files"])
def test_a_missing_key(bundle: Path, key: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest.pop(key))
    assert_refused(bundle, rf"bundle\.json: it lacks \['{key}'\]")


def test_a_missing_key_further_down(bundle: Path) -> None:
    edit_manifest(bundle, lambda manifest: manifest["image"].pop("width"))
    assert_refused(bundle, r"image lacks \['width'\] and has unknown \[\]")


def test_all_missing_and_unknown_keys_are_named_at_once(bundle: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        del manifest["name"], manifest["licence"]
        manifest["colour\n"] = manifest["author"] = "?"

    edit_manifest(bundle, change)
    assert_refused(bundle, r"it lacks \['licence', 'name'\] and has unknown \['author', 'colour\\n'\]")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", 1, "name is not of type str"),
        ("name", "a\nb", r"name 'a\\nb' is not printable"),
        ("name", "\ud800", "is not printable"),
        ("licence", None, "licence is not of type str"),
        ("source", "church.ckpt", "source is not an object"),
        ("source.sha256", 0, "source.sha256 is not of type str"),
        ("image", [3, 8, 8], "image is not an object"),
        ("image.height", "8", "image.height is not of type int"),
        ("image.height", 8.0, "image.height is not of type int"),
        ("image.height", True, "image.height is not of type int"),
        ("image.height", 0, "is not a size"),
        ("image.width", -8, "is not a size"),
        ("image.channels", 2**31, "is not a size"),
        ("image.channels", 10**1000, "is not a size"),
        ("image.multiple_of", 3, "is not a multiple of multiple_of"),
        ("prediction", "score", "prediction 'score' is not one of eps, v, x0, flow"),
        ("conditioning", "text", "conditioning 'text' is not one of none, label"),
        ("conditioning", "label", "classes 0 is not in 1..1000000, with conditioning label"),
        ("classes", 3, "classes 3 is not in 0..0, with conditioning none"),
        ("classes", True, "classes is not of type int"),
        ("null_label", 0, "null_label 0 is not in 0..classes"),
        ("null_label", "0", "null_label is not of type int or NoneType"),
        ("parity.engines", [], "parity.engines is not of type dict"),
        ("schedule.levels", 20.5, "schedule.levels is not of type int"),
        ("exported_with", [], "exported_with is not of type dict"),
        ("parity.levels", 3, "parity.levels is not of type list"),
        ("parity.levels", [0], r"parity.levels \[0\] are not levels of the schedule"),
        ("parity.levels", [21], r"parity.levels \[21\] are not"),
        ("parity.levels", ["1"], r"parity.levels \['1'\] are not"),
        ("parity.max_relative_error", 0, "parity.max_relative_error is not of type float"),
        ("files", [], "files is not of type dict"),
        ("files", {}, "files lack network.onnx"),
        ("files.extra", "hash", r"files\['extra'\] is not an object"),
        ("files.extra", {"sha256": ""}, r"files\['extra'\] lacks \['bytes'\]"),
        ("files.extra", {"sha256": "", "bytes": "1"}, r"files\['extra'\].bytes is not of type int"),
    ],
)
def test_a_value_that_is_not_accepted(bundle: Path, field: str, value: object, message: str) -> None:
    set_field(bundle, field, value)
    assert_refused(bundle, rf"bundle\.json: .*{message}")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_file_that_every_bundle_has_must_be_listed(bundle: Path, name: str) -> None:
    edit_manifest(bundle, lambda manifest: manifest["files"].pop(name))
    assert_refused(bundle, f"files lack {name}")


# Paths and files


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "//server/share",
        "..",
        "../other/network.onnx",
        "variants/../../other",
        "variants/../network.onnx",
        "..\\other",
        "variants\\int8.onnx",
        "C:other",
        "C:/other",
        "",
        ".",
        "./network.onnx",
        "variants//int8.onnx",
        "variants/",
        "*/_ORT_MEM_ADDR_/*",
        "new\nline",
        "nul\0",
        "surrogate\ud800",
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_plain_path(bundle: Path, name: str) -> None:
    list_file(bundle, name, b"")
    assert_refused(bundle, r"bundle\.json: files: path '.*' does not stay in the bundle")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (bundle / "link").symlink_to(tmp_path / "secret")
    list_file(bundle, "link", b"secret")
    assert_refused(bundle, "link leads outside the bundle")


def test_a_folder_that_is_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(b"secret")
    (bundle / "variants").symlink_to(tmp_path / "outside")
    list_file(bundle, "variants/secret", b"secret")
    assert_refused(bundle, "variants/secret leads outside the bundle")


def test_a_link_to_itself(bundle: Path) -> None:
    (bundle / "loop").symlink_to("loop")
    list_file(bundle, "loop", b"")
    assert_refused(bundle, "loop (cannot be read|is missing)")


def test_a_link_within_the_bundle_is_accepted(bundle: Path) -> None:
    (bundle / "link").symlink_to(NETWORK)
    list_file(bundle, "link", (bundle / NETWORK).read_bytes())
    read_bundle(bundle)


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_missing_file(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    assert_refused(bundle, f"{name} is missing")


def test_a_folder_in_the_place_of_a_file(bundle: Path) -> None:
    (bundle / "engines").mkdir()
    list_file(bundle, "engines", b"")
    assert_refused(bundle, "engines is missing")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_a_truncated_file(bundle: Path, name: str) -> None:
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data[:-1])
    assert_refused(bundle, f"{name} has {len(data) - 1} bytes, expected {len(data)}: it was altered")


@pytest.mark.parametrize("name", [NETWORK, SCHEDULE, REFERENCE])
def test_an_altered_byte(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    assert_refused(bundle, rf"{name} does not have the hash that bundle\.json states: it was altered")


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
    open_engine(read_bundle(bundle)).bind(x, np.zeros(1, np.float32), out)()
    assert (out == 0.25).all()


def test_every_location_is_found(tmp_path: Path) -> None:
    both = in_an_initializer("a.bin")
    both.graph.node.append(constant("b.bin"))
    both.graph.initializer[0].external_data.add(key="location", value="c.bin")
    onnx.save(both, tmp_path / NETWORK)
    assert external_files(tmp_path / NETWORK) == {"a.bin", "b.bin", "c.bin"}


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
        (cosine(LEVELS).astype(np.float32), r"float64 \[T, 3\] with T in 1..1000000, got float32 \[20, 3\]"),
        (cosine(LEVELS).astype(">f8"), r"got >f8 \[20, 3\]"),
        (cosine(LEVELS)[:, :2], r"got float64 \[20, 2\]"),
        (cosine(LEVELS)[0], r"got float64 \[3\]"),
        (np.zeros((0, 3)), r"got float64 \[0, 3\]"),
        (with_nan(), "holds a value that is not finite"),
        (scaled(0, -1), r"alpha must lie in \[0, 1\]"),
        (scaled(0, 1.1), r"alpha must lie in \[0, 1\]"),
        (scaled(1, 0), "sigma above 0"),
        (cosine(LEVELS)[::-1], "from clean to noisy"),
        (np.repeat(cosine(LEVELS), 2, axis=0), "from clean to noisy"),
        (cosine(LEVELS + 1), r"has 21 levels, bundle\.json says 20"),
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
    """None where it is refused, on one line."""
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
        assert read.manifest == json.loads(text)
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
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / NETWORK
        path.write_bytes(data)
        try:
            found = external_files(path)
        except ValueError:
            return
        assert all(isinstance(location, str) for location in found)


# Writing


def test_the_manifest_is_sorted_and_ends_with_a_newline(bundle: Path) -> None:
    text = (bundle / MANIFEST).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), sort_keys=True, indent=2) + "\n"
    assert list(json.loads(text)["files"]) == sorted([NETWORK, REFERENCE, SCHEDULE])


def test_the_manifest_does_not_depend_on_the_order_of_its_fields(bundle: Path) -> None:
    before = (bundle / MANIFEST).read_bytes()
    turned = {key: FIELDS[key] for key in reversed(FIELDS)}
    turned["image"] = {key: FIELDS["image"][key] for key in reversed(FIELDS["image"])}
    write_manifest(bundle, turned)
    assert (bundle / MANIFEST).read_bytes() == before


def test_the_manifest_lists_files_in_folders_too(bundle: Path) -> None:
    (bundle / "variants").mkdir()
    (bundle / "variants" / "int8.onnx").write_bytes(b"int8")
    write_manifest(bundle, FIELDS)
    entry = read_bundle(bundle).manifest["files"]["variants/int8.onnx"]
    assert entry == {"sha256": hashlib.sha256(b"int8").hexdigest(), "bytes": 4}


def test_a_manifest_holds_no_nan(bundle: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_manifest(bundle, {**FIELDS, "parity": {**FIELDS["parity"], "max_relative_error": float("nan")}})


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_staged_folder_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "model"
    with staged(out) as folder:
        (folder / "file").write_bytes(b"new")
        assert not out.exists()
    assert contents(tmp_path) == {"deep/model/file": b"new"}


def test_a_staged_folder_replaces_a_bundle(bundle: Path) -> None:
    with staged(bundle) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(bundle.parent) == {"bundle/file": b"new"}


def test_a_staged_folder_replaces_a_link_not_what_it_leads_to(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    link = tmp_path / "link"
    link.symlink_to(bundle)
    with staged(link) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(link) == {"file": b"new"}
    assert contents(bundle) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_a_failure_the_old_bundle_is_there_and_nothing_else(bundle: Path, error: type[BaseException]) -> None:
    def work() -> None:
        with staged(bundle) as folder:
            (folder / NETWORK).write_bytes(b"half of it")
            raise error

    before = contents(bundle)
    with pytest.raises(error):
        work()
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def test_a_full_disk_is_said_in_one_line(bundle: Path) -> None:
    before = contents(bundle)
    with pytest.raises(BundleError, match="cannot be written: No space left on device"), staged(bundle):
        raise OSError(28, "No space left on device")
    assert contents(bundle.parent) == {f"bundle/{name}": data for name, data in before.items()}


def test_where_the_last_rename_fails_the_old_bundle_comes_back(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(bundle)
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(BundleError, match="cannot be written: Permission denied"), staged(bundle) as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(bundle) == before
    assert list(bundle.parent.iterdir()) == [bundle]


def assert_not_replaced(out: Path, message: str = "exists and is not a bundle alone: it is not replaced") -> None:
    with pytest.raises(BundleError, match=message), staged(out):
        pytest.fail("the work was begun")


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with staged(tmp_path / "model") as folder:
        (folder / "file").write_bytes(b"new")
    assert contents(tmp_path) == {"model/file": b"new"}


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"precious")
    assert_not_replaced(tmp_path / "model")
    assert contents(tmp_path) == {"model": b"precious"}


@pytest.mark.parametrize("name", ["notes.txt", MANIFEST])
def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_bytes(b"{}")
    assert_not_replaced(tmp_path / "model")
    assert contents(tmp_path) == {f"model/{name}": b"{}"}


def test_a_bundle_with_a_stranger_in_it_is_not_replaced(bundle: Path) -> None:
    (bundle / "notes").mkdir()
    (bundle / "notes" / "mine.txt").write_bytes(b"precious")
    before = contents(bundle)
    assert_not_replaced(bundle)
    assert contents(bundle) == before


def test_a_damaged_bundle_may_be_replaced(bundle: Path) -> None:
    (bundle / NETWORK).write_bytes(b"damaged")
    (bundle / SCHEDULE).unlink()
    with staged(bundle):
        pass
    assert contents(bundle) == {}


def test_the_working_folder_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert_not_replaced(Path())


def test_below_a_file_there_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    assert_not_replaced(tmp_path / "file" / "model", "bundle .*model cannot be written: ")


def test_a_name_too_long_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be written: File name too long"), staged(tmp_path / ("a" * 300)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_halving_network_is_valid() -> None:
    onnx.checker.check_model(halving_network(), full_check=True)
