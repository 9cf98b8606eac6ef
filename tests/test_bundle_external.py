"""Networks of bundles: weights outside the ONNX file lie in listed files, and no other data does."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from damage import damaged
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from refusals import assert_refused
from tiny import SHAPE, model, rewrite, write_bundle

from sdedit.errors import BundleError
from sdedit.runtime.bundle import NETWORK, Bundle, Network, read_bundle
from sdedit.runtime.bundle.graph import External, check_graph
from sdedit.runtime.engines import load_engine


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


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


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", ""])
def test_weights_outside_that_the_manifest_does_not_list(bundle: Path, location: str) -> None:
    rewrite(bundle, NETWORK, in_an_initializer(location).SerializeToString())
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle)
    assert str(caught.value) == (
        f"bundle {bundle}: network.onnx asks for {location!r}, which bundle.json does not list"
    )


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("location", ["bundle.json", "../weights.bin"])
def test_data_outside_that_is_no_weight_is_refused(
    bundle: Path, place: Callable[[str], onnx.ModelProto], location: str
) -> None:
    rewrite(bundle, NETWORK, place(location).SerializeToString())
    assert_refused(bundle, "network.onnx")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"offset": "-4"}, "numbers of bytes are accepted"),
        ({"offset": "9" * 30}, "numbers of bytes are accepted"),
        ({"length": "0x4"}, "numbers of bytes are accepted"),
        ({"length": "8"}, "'weights' has 8 bytes in another file, but its shape takes 4"),
        ({"offset": "2"}, r"asks for the bytes 2..6 of weights.bin, which has 4"),
    ],
)
def test_weights_outside_lie_within_their_file(bundle: Path, entry: dict[str, str], message: str) -> None:
    (bundle / "weights.bin").write_bytes(bytes(4))
    network = in_an_initializer("weights.bin")
    tensor = network.graph.initializer[0]
    del tensor.external_data[:]
    for key, value in {"location": "weights.bin", **entry}.items():
        tensor.external_data.add(key=key, value=value)
    rewrite(bundle, NETWORK, network.SerializeToString())
    assert_refused(bundle, message)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_runs_the_bytes_that_were_verified(
    bundle: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that change, or end, between the check and the engine's own reading change nothing."""
    (bundle / "weights.bin").write_bytes(np.float32([7, 0.25]).tobytes())
    weights = external("weights.bin")
    weights.external_data[0].value = "4"
    nodes = [helper.make_node("Unsqueeze", ["time", "axes"], ["t"]), helper.make_node("Mul", ["x", "weights"], ["y"])]
    axes = numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    network = model([*nodes, helper.make_node("Add", ["y", "t"], ["out"])], [weights, axes])
    rewrite(bundle, NETWORK, network.SerializeToString())
    read = Bundle.read_network

    def and_alter(self: Bundle, name: str = NETWORK) -> Network:
        verified = read(self, name)
        (bundle / "weights.bin").write_bytes(b"")
        (bundle / NETWORK).write_bytes(b"")
        return verified

    monkeypatch.setattr(Bundle, "read_network", and_alter)
    x = np.ones((1, *SHAPE), np.float32)
    out = np.zeros_like(x)
    load_engine(read_bundle(bundle), engine, "float32", 1).bind({"x": x, "time": np.zeros(1, np.float32)}, out)()
    assert (out == 0.25).all()


def test_every_place_is_found() -> None:
    network = in_an_initializer("a.bin")
    network.graph.initializer.append(external("b.bin"))
    network.graph.initializer[1].name = "others"
    assert check_graph(network.SerializeToString()) == [
        External("weights", "a.bin", 0, 4),
        External("others", "b.bin", 0, 4),
    ]


# Damage of any kind


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.sampled_from([*PLACES, in_an_initializer]).flatmap(
            lambda place: damaged(place("weights.bin").SerializeToString())
        ),
    )
)
def test_no_bytes_crash_the_check(data: bytes) -> None:
    try:
        found = check_graph(data)
    except ValueError:
        return
    assert all(isinstance(place, External) for place in found)
