"""Walking and replacing the nodes of an ONNX graph, as `half` and `int8` need it.

Graphs are flat (no subgraphs) and their nodes are in the order of computation.
"""

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from sdedit.runtime.bundle import Network

VALUE_MOVERS = {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity", "Shape"}
"""Operations that move values and compute none."""

CONSTANT_MAKERS = {"Constant", "ConstantOfShape", "RandomNormal"}
"""Operations that compute nothing from the values of an input."""


def read_model(network: Network) -> ModelProto:
    """The model of a bundle's network, its verified bytes, with the weights that lie in other files in it.

    onnx would read those files itself, and refuses links, which parts of bundles are.
    """
    model = onnx.load_from_string(network.take_data())
    tensors = constants(model.graph)
    for place in network.places:
        tensor = tensors[place.name]
        tensor.raw_data = network.files[place.location][place.offset : place.offset + place.length]
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
    return model


def is_flat(model: ModelProto) -> bool:
    """Whether the model has neither subgraphs nor local functions."""
    attributes = (attribute for node in model.graph.node for attribute in node.attribute)
    return not model.functions and all(attribute.type != AttributeProto.GRAPH for attribute in attributes)


def constants(graph: GraphProto) -> dict[str, TensorProto]:
    """The initializers by name."""
    return {tensor.name: tensor for tensor in graph.initializer}


def names_of(graph: GraphProto, operation: str) -> list[str]:
    """The names of the nodes of one operation."""
    return [node.name for node in graph.node if node.op_type == operation]


def replace_nodes(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Let the graph consist of these nodes, which may be its own."""
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]  # its own are deleted next
    del graph.node[:]
    graph.node.extend(kept)


def unstore_half(model: ModelProto) -> None:
    """Turn weights that are stored in half with a Cast to float32 (onnx_graph.store_in_half) into float32 ones."""
    graph = model.graph
    stored = {name: t for name, t in constants(graph).items() if t.data_type == TensorProto.FLOAT16}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored and cast_type(node) == TensorProto.FLOAT:
            tensor = stored[node.input[0]]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
        else:
            kept.append(node)
    replace_nodes(graph, kept)


def cast_type(cast: NodeProto) -> int:
    """The type of a Cast's result."""
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")


def ancestors(graph: GraphProto, operations: Collection[str]) -> set[str]:
    """The inputs of nodes of these operations, and all values that these inputs are computed from."""
    found: set[str] = set()
    for node in reversed(graph.node):
        if node.op_type in operations or found.intersection(node.output):
            found.update(node.input)
    return found


def prune(model: ModelProto) -> None:
    """Drop the nodes and initializers that no output of the graph needs."""
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    replace_nodes(graph, kept[::-1])
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(weights)
