"""Networks of bundles: which graphs are refused before an engine sees them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper
from refusals import assert_refused
from tiny import model, rewrite, write_bundle

from sdedit.runtime.bundle import NETWORK, SHIPPED
from sdedit.runtime.bundle.graph import check_graph
from sdedit.runtime.bundle.protobuf import MAX_FIELDS, encode


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def refusal(network: onnx.ModelProto | bytes, labels: int = 0) -> str:
    """Why the network is refused."""
    data = network if isinstance(network, bytes) else network.SerializeToString()
    with pytest.raises(ValueError, match=r"^the |^a |^'") as caught:
        check_graph(data, {"label": labels})
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def of_nodes(*nodes: NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    return model(list(nodes), [numpy_helper.from_array(value, name) for name, value in constants.items()])


# Operators


def test_the_shipped_network_is_accepted() -> None:
    assert check_graph((SHIPPED / NETWORK).read_bytes()) == []


@pytest.mark.parametrize(
    "kind",
    ["Loop", "If", "Scan", "SequenceMap", "GatherND", "GatherElements", "ScatterND", "ScatterElements", "Scatter",
     "RandomNormal", "NonZero", "Range", "TopK", "Odd", ""],
)  # fmt: skip
def test_operators_that_are_not_on_the_list_are_refused(bundle: Path, kind: str) -> None:
    rewrite(bundle, NETWORK, of_nodes(helper.make_node(kind, ["x"], ["out"])).SerializeToString())
    assert_refused(bundle, f"network.onnx: the network has the operator '{kind}', which is not one of those accepted")


def test_operators_of_other_domains_are_refused() -> None:
    node = helper.make_node("Mul", ["x", "x"], ["out"], domain="com.microsoft")
    assert "the operator 'com.microsoft.Mul'" in refusal(of_nodes(node))


def with_body(attribute: str, kind: int) -> onnx.ModelProto:
    """A node of an accepted operator with a subgraph that the operator does not have."""
    node = helper.make_node("Mul", ["x", "x"], ["out"])
    held = node.attribute.add(name="body", type=kind)
    body = helper.make_graph([], "body", [], [])
    held.graphs.append(body) if attribute == "graphs" else held.g.CopyFrom(body)
    return of_nodes(node)


def test_subgraphs_are_refused_wherever_they_are() -> None:
    assert refusal(with_body("g", onnx.AttributeProto.GRAPH)) == (
        "a Mul of the network has a graph inside: none is accepted"
    )
    assert "has a graph inside" in refusal(with_body("graphs", onnx.AttributeProto.GRAPHS))


def test_an_operator_that_is_given_twice_is_refused() -> None:
    """Protobuf takes the last one; another reader may take the first."""
    loop = encode(4, b"Mul") + encode(4, b"Loop")
    assert refusal(encode(7, encode(1, loop))) == "the ONNX file gives a field twice"


def test_a_second_graph_is_read_as_part_of_the_first() -> None:
    """Protobuf joins them."""
    first = of_nodes(helper.make_node("Mul", ["x", "x"], ["out"])).SerializeToString()
    assert "the operator 'Loop'" in refusal(first + encode(7, encode(1, encode(4, b"Loop"))))


def test_a_value_that_is_computed_twice_is_refused() -> None:
    """Which of the two is a Gather's table would be the engine's choice."""
    nodes = [helper.make_node("Mul", ["x", "x"], ["table"]), helper.make_node("Gather", ["table", "x"], ["out"])]
    assert refusal(of_nodes(*nodes, table=np.zeros(3, np.float32))) == "the network computes 'table' twice"


# Indices and sizes


def gather(indices: np.ndarray | str, rows: int = 4, axis: int = 0) -> onnx.ModelProto:
    constants = {"table": np.zeros((rows, 3), np.float32)}
    if not isinstance(indices, str):
        constants["indices"] = indices
    name = indices if isinstance(indices, str) else "indices"
    return of_nodes(helper.make_node("Gather", ["table", name], ["out"], axis=axis), **constants)


@pytest.mark.parametrize("indices", [np.array([0, 3, -4]), np.array(2, np.int32), np.zeros((0,), np.int64)])
def test_a_gather_within_its_table_is_accepted(indices: np.ndarray) -> None:
    check_graph(gather(indices).SerializeToString())


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (gather(np.array([0, 4])), "a Gather of the network reads rows 0..4 of a table of 4"),
        (gather(np.array([-5])), "reads rows -5..-5 of a table of 4"),
        (gather(np.array([3]), axis=1), "reads rows 3..3 of a table of 3"),
        (gather(np.array([0]), axis=2), r"has the axis 2 in a table of [4, 3]"),
        (gather(np.array([0.5], np.float32)), "reads at indices that are neither constants nor an input"),
        (gather("x"), "reads at indices that are neither constants nor an input"),
        (of_nodes(helper.make_node("Gather", ["x", "i"], ["out"]), i=np.array([0])), "a table that is not constant"),
        (of_nodes(helper.make_node("Gather", ["x"], ["out"])), "a table that is not constant"),
    ],
)
def test_a_gather_that_might_leave_its_table_is_refused(network: onnx.ModelProto, message: str) -> None:
    assert message in refusal(network)


def test_a_table_of_labels_has_a_row_for_each() -> None:
    check_graph(gather("label").SerializeToString(), {"label": 4})
    assert refusal(gather("label"), 5) == "the network has a table of 4 labels, and is given 5"


def test_indices_may_be_the_value_of_a_node_and_packed() -> None:
    """Without raw_data, as other writers of ONNX store them."""
    value = helper.make_tensor("", TensorProto.INT64, [2], [1, -5])
    nodes = [helper.make_node("Constant", [], ["i"], value=value), helper.make_node("Gather", ["table", "i"], ["out"])]
    assert "reads rows -5..1 of a table of 4" in refusal(of_nodes(*nodes, table=np.zeros(4, np.float32)))


@pytest.mark.parametrize(
    ("kind", "attribute", "value", "message"),
    [
        ("Conv", "strides", [0, 1], "a Conv of the network has strides [0, 1], not in 1..1048576"),
        ("Conv", "group", 0, "has group [0]"),
        ("Conv", "dilations", [-1, 1], "has dilations [-1, 1]"),
        ("Conv", "pads", [0, 0, 0, 2**40], "not in 0..1048576"),
        ("AveragePool", "kernel_shape", [2**62, 1], "not in 1..1048576"),
        ("DepthToSpace", "blocksize", 0, "has blocksize [0]"),
        ("Split", "num_outputs", 0, "has num_outputs [0]"),
    ],
)
def test_sizes_that_engines_divide_by_or_allocate_are_bounded(
    kind: str, attribute: str, value: object, message: str
) -> None:
    assert message in refusal(of_nodes(helper.make_node(kind, ["x"], ["out"], **{attribute: value})))


@pytest.mark.parametrize(
    ("kind", "inputs", "sizes"),
    [
        ("Expand", ["x", "s"], np.array([2**40])),
        ("ConstantOfShape", ["s"], np.array([2**20, 2**20])),
        ("Tile", ["x", "s"], np.array([1, 1, 2**16, 2**16])),
        ("Pad", ["x", "s"], np.array([0, 0, 0, 0, 0, 0, 0, -(2**40)])),
        ("Resize", ["x", "", "s"], np.array([1, 1, 1e30, 1], np.float32)),
        ("Resize", ["x", "", "s"], np.array([1, 1, np.nan, 1], np.float32)),
        ("Resize", ["x", "", "", "s"], np.array([1, 3, 2**20, 2**20])),
    ],
)
def test_a_tensor_larger_than_any_image_is_refused(kind: str, inputs: list[str], sizes: np.ndarray) -> None:
    assert f"a {kind} of the network makes a tensor of the size" in refusal(
        of_nodes(helper.make_node(kind, inputs, ["out"]), s=sizes)
    )


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (TensorProto(name="w", data_type=1, dims=[4], raw_data=bytes(15)), "'w' does not have the 4 values"),
        (TensorProto(name="w", data_type=1, dims=[2**40]), "'w' does not have the 1099511627776 values"),
        (TensorProto(name="w", data_type=1, dims=[-1]), "'w' has sizes [-1]"),
        (TensorProto(name="w", data_type=7, dims=[3], int64_data=[1, 2]), "'w' has 2 values, but its shape has 3"),
        (TensorProto(name="w", data_type=8, dims=[1], string_data=[b"a"]), "'w' has values of type 8"),
        (TensorProto(name="w", data_type=99, dims=[1]), "'w' has values of type 99"),
    ],
)
def test_a_constant_has_the_values_that_its_sizes_ask_for(tensor: onnx.TensorProto, message: str) -> None:
    assert message in refusal(model([helper.make_node("Mul", ["x", "w"], ["out"])], [tensor]))


# Work is bounded


def test_a_file_of_endless_fields_is_refused_after_some() -> None:
    """20 MB of fields of two bytes."""
    assert refusal(encode(7, b"\x0a\x00" * 10_000_000)) == f"the ONNX file has more than {MAX_FIELDS} fields"
    packed = encode(7, encode(5, encode(2, 7) + encode(1, b"\x01" * 10_000_000)))
    assert refusal(packed) == f"the ONNX file has more than {MAX_FIELDS} fields"


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
