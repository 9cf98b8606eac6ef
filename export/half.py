"""An ONNX network that computes in half precision inside and has float32 inputs and outputs.

It is for engines that compute as the network says (TensorRT does, on every GPU). Operations that lose much in half stay
in float32: sums over many values, exponentials, and the time embedding, whose angles are large.
"""

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

from .onnx_nodes import CONSTANT_MAKERS, VALUE_MOVERS, ancestors, is_flat, prune, replace_nodes, unstore_half

KEPT = {
    "Cos",
    "Div",
    "Exp",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Sin",
    "Softmax",
    "Sqrt",
}
"""Operations that stay in float32."""

ANGLES = {"Cos", "Sin"}
"""The computation of their inputs stays in float32 too: half has steps of 0.5 at a time of 999."""

FLOAT32_INPUTS = {"Resize": (1, 2)}
"""Inputs that ONNX wants in float32 always: regions and scales."""

SUFFIX: dict[int, str] = {TensorProto.FLOAT16: "half", TensorProto.FLOAT: "float"}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that computes in half except for KEPT, with the same float32 inputs and outputs.

    Raises ValueError for networks with subgraphs or local functions.
    """
    if not is_flat(model):
        raise ValueError("networks with subgraphs or functions are not converted to half")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    unstore_half(result)
    _Conversion(result).run()
    prune(result)
    onnx.checker.check_model(result, full_check=True)
    return result


class _Conversion:
    """One pass over the nodes: each float value gets a type, half or float32, and casts go in between."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        inferred = shape_inference.infer_shapes(model, check_type=True, data_prop=False).graph
        values = (*inferred.input, *inferred.output, *inferred.value_info)
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {tensor.name: tensor.data_type for tensor in self.graph.initializer}
        self.weights = {t.name: t for t in self.graph.initializer if t.data_type == TensorProto.FLOAT}
        self.precise = ancestors(self.graph, ANGLES)
        self.outputs = {value.name for value in self.graph.output}
        self.now: dict[str, int] = {
            name: TensorProto.FLOAT for name, kind in self.types.items() if kind == TensorProto.FLOAT
        }
        """The present type of each float value."""
        self.nodes: list[NodeProto] = []
        self.made: dict[tuple[str, int], str] = {}

    def run(self) -> None:
        for node in self.graph.node:
            self._convert(node)
        del self.graph.value_info[:]
        replace_nodes(self.graph, self.nodes)

    def _convert(self, node: NodeProto) -> None:
        wanted = self._type_for(node)
        single = FLOAT32_INPUTS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name in self.now and node.op_type not in ("Cast", "Shape"):
                node.input[index] = self._as(name, TensorProto.FLOAT if index in single else wanted)
        results = [name for name in node.output if self.types.get(name) == TensorProto.FLOAT]
        borders = [name for name in results if name in self.outputs and wanted == TensorProto.FLOAT16]
        for name in results:
            self.now[name] = wanted
        self.nodes.append(node)
        for name in borders:  # the output keeps its name and type
            inner = f"{name}.half"
            node.output[list(node.output).index(name)] = inner
            self.nodes.append(helper.make_node("Cast", [inner], [name], f"{name}.cast", to=TensorProto.FLOAT))
            self.now[inner], self.now[name] = TensorProto.FLOAT16, TensorProto.FLOAT

    def _type_for(self, node: NodeProto) -> int:
        """The type that the node computes in. Operations that only move values keep their input's type."""
        if self.precise.intersection(node.output) or node.op_type in KEPT | CONSTANT_MAKERS | {"Cast"}:
            return int(TensorProto.FLOAT)
        if node.op_type in VALUE_MOVERS and node.input[0] in self.now and node.input[0] not in self.weights:
            return int(self.now[node.input[0]])
        return int(TensorProto.FLOAT16)

    def _as(self, name: str, wanted: int) -> str:
        """The name of that value in that type: a cast of it, or a converted weight."""
        if self.now[name] == wanted:
            return name
        if (name, wanted) not in self.made:
            converted = f"{name}.as-{SUFFIX[wanted]}"
            self.made[name, wanted] = converted
            self.now[converted] = wanted
            if name in self.weights:
                self._add_weight(name, converted)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [converted], f"{converted}.cast", to=wanted))
        return self.made[name, wanted]

    def _add_weight(self, name: str, converted: str) -> None:
        values = numpy_helper.to_array(self.weights[name])
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.array_equal(np.isfinite(half), np.isfinite(values)):
            raise ValueError(f"the weight {name} has values beyond half's range")
        self.graph.initializer.append(numpy_helper.from_array(half, converted))


def with_every_rounding(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network, to be measured on onnxruntime's CPU provider with its optimisations off.

    That provider computes in float32 between casts of its own, and drops pairs of casts to half and back. An Identity
    after each value in half keeps such a pair apart, so that the value is rounded.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    inferred = shape_inference.infer_shapes(result, check_type=True).graph
    half = {v.name for v in inferred.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT16}
    nodes = []
    for node in result.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in half:
                node.output[index] = f"{name}.unrounded"
                nodes.append(helper.make_node("Identity", [node.output[index]], [name], f"{name}.rounded"))
    del result.graph.value_info[:]
    replace_nodes(result.graph, nodes)
    return result
