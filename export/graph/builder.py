"""Writing ONNX graphs node by node: operators of the standard domain, with constants stored once."""

from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

OPSET = 18
"""The least opset: bitwise operators came with it."""

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
UINT64, UINT8, BOOL = TensorProto.UINT64, TensorProto.UINT8, TensorProto.BOOL


class Names:
    """Fresh names, unique in a model and its subgraphs."""

    def __init__(self) -> None:
        self._count = 0

    def fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"


class Builder:
    """Nodes and constants of one graph or subgraph. Methods take and return names of values."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._stored: dict[tuple[bytes, str, tuple[int, ...]], str] = {}

    def inner(self) -> "Builder":
        """A builder of a subgraph, which sees this graph's values."""
        return Builder(self.names)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        name = self.names.fresh(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def call(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """A node whose outputs have given names."""
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))

    def name(self, value: str, name: str) -> None:
        """Give a value a name, which an output of the graph needs."""
        self.call("Identity", [value], [name])

    def constant(self, value: Any, dtype: type[np.generic]) -> str:
        array = np.asarray(value, dtype)
        key = (array.tobytes(), array.dtype.str, array.shape)
        if key not in self._stored:
            name = self._stored[key] = self.names.fresh("constant")
            self.constants.append(numpy_helper.from_array(array, name))
        return self._stored[key]

    def f32(self, value: Any) -> str:
        return self.constant(value, np.float32)

    def f64(self, value: Any) -> str:
        return self.constant(value, np.float64)

    def i64(self, value: Any) -> str:
        return self.constant(value, np.int64)

    def u64(self, value: Any) -> str:
        return self.constant(value, np.uint64)

    def cast(self, value: str, to: int) -> str:
        return self.op("Cast", value, to=to)

    def add(self, a: str, b: str) -> str:
        return self.op("Add", a, b)

    def sub(self, a: str, b: str) -> str:
        return self.op("Sub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.op("Mul", a, b)

    def div(self, a: str, b: str) -> str:
        return self.op("Div", a, b)

    def where(self, condition: str, a: str, b: str) -> str:
        """np.where, but onnxruntime's may return 0.0 for -0.0: `select` and `choose` keep it."""
        return self.op("Where", condition, a, b)

    def select(self, condition: str, a: str, b: str, shape: str) -> str:
        """np.where that keeps -0.0: a gather from `a` and `b`, both [1, ...] of `shape`, one behind the other."""
        index = self.op("Expand", self.cast(self.op("Not", condition), INT64), shape)
        return self.op("GatherElements", self.op("Concat", a, b, axis=0), index, axis=0)

    def choose(self, condition: str, a: str, b: str) -> str:
        """np.where that keeps -0.0, for values that broadcast to the condition's shape."""
        first = self.i64([0])
        row, shape = self.op("Unsqueeze", condition, first), self.op("Shape", condition)
        a, b = (self.op("Unsqueeze", self.op("Expand", part, shape), first) for part in (a, b))
        return self.op("Squeeze", self.select(row, a, b, self.op("Shape", row)), first)

    def graph(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> GraphProto:
        return helper.make_graph(self.nodes, name, inputs, outputs, self.constants)


def value(name: str, kind: int, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    """An input or output of a graph; shape None: not said."""
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(graph: GraphProto, opset: int = OPSET) -> ModelProto:
    """The graph as a model of the standard operators alone."""
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="sdedit", ir_version=10
    )
