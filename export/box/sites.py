"""The places of a network's graph where a box of the picture depends on what lies outside the box.

They are its convolutions (a halo), its group norms and means (sums over the picture), and its attention (keys and
values).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from sdedit.errors import BundleError
from sdedit.runtime.engines.importing import import_onnxruntime

LOCAL = frozenset(
    """
    Add Cast Concat Constant Cos DepthToSpace Div Gemm Identity MatMul Mul Reshape Resize Shape Sigmoid Sin Slice
    Softmax SpaceToDepth Split Sqrt Squeeze Sub Transpose Unsqueeze
    """.split()  # noqa: SIM905 - a list would take twenty lines
)
"""Operators that compute a box from that box alone, or that belong to attention."""

PASSED = ("Reshape", "Transpose", "Mul", "Div")
"""Operators between attention's convolutions and its products."""


@dataclass(frozen=True)
class Site:
    """value: the picture-like tensor that the site is about. node: index of the site's node. scale: pixels a cell."""

    node: int
    value: str
    channels: int
    scale: int


@dataclass(frozen=True)
class Sites:
    """halos: convolutions wider than a cell, with their input. norms: instance norms, with their input as a picture.

    means: means over height and width, with their input. keys: convolutions that give keys or values, with their
    output. halo and key `channels` are of their outputs, those of a norm are its groups.
    """

    halos: tuple[Site, ...]
    norms: tuple[Site, ...]
    means: tuple[Site, ...]
    keys: tuple[Site, ...]


class Reading:
    """A graph with what is needed to walk it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.producers = {output: node for node in self.nodes for output in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.uses = Counter(name for node in self.nodes for name in node.input)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of an initializer, else None."""
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    def dims(self, name: str) -> list[int]:
        """Sizes of a weight, which may be stored in half with a Cast behind it."""
        node = self.producers.get(name)
        tensor = self.constants.get(node.input[0] if node is not None and node.op_type == "Cast" else name)
        if tensor is None:
            raise BundleError(f"box: the weight {name!r} is not constant")
        return list(tensor.dims)

    def back(self, name: str, kind: str) -> onnx.NodeProto:
        """The node of that kind that `name` comes from through PASSED; raises BundleError if there is none."""
        node = self.producers.get(name)
        while node is not None and node.op_type != kind and node.op_type in PASSED:
            name = next((i for i in node.input if i in self.producers), "")
            node = self.producers.get(name)
        if node is None or node.op_type != kind:
            found = "nothing" if node is None else node.op_type
            raise BundleError(f"box: attention is not of the known form: {found} where a {kind} was looked for")
        return node


def attribute(node: onnx.NodeProto, name: str, default: Sequence[int]) -> list[int]:
    """An attribute that is a list of integers."""
    return next((list(a.ints) for a in node.attribute if a.name == name), list(default))


def find_sites(model: onnx.ModelProto, unit: int) -> Sites:
    """The sites of a network whose sides are multiples of `unit`.

    Raises BundleError, with the operator's name, for a network that a box cannot be computed of.
    """
    graph = Reading(model)
    halos, norms, means = [], [], []
    for index, node in enumerate(graph.nodes):
        if node.op_type == "Conv":
            if max(attribute(node, "kernel_shape", graph.dims(node.input[1])[2:])) > 1:
                halos.append((index, node.input[0], graph.dims(node.input[1])[0]))
        elif node.op_type == "InstanceNormalization":
            norms.append((index, *_norm(graph, node)))
        elif node.op_type == "ReduceMean":
            means.append((index, node.input[0]))
            _check_mean(graph, node)
        elif node.op_type == "AveragePool" and _is_tiling(node):
            continue
        elif node.op_type not in LOCAL:
            raise BundleError(f"box: the network has the operator {node.op_type}, of which no box is computed")
    keys = [(_index(graph, conv), conv.output[0], graph.dims(conv.input[1])[0]) for conv in _keys(graph)]
    if not halos:
        raise BundleError("box: the network has no convolution wider than a pixel")
    values = [*(value for _, value, _ in (*halos, *norms, *keys)), *(value for _, value in means)]
    shapes = find_shapes(model, values, unit)
    means_of = [(index, value, shapes[value][0]) for index, value in means]

    def sites(found: Iterable[tuple[int, str, int]]) -> tuple[Site, ...]:
        return tuple(Site(index, value, channels, shapes[value][1]) for index, value, channels in found)

    return Sites(sites(halos), sites(norms), sites(means_of), sites(keys))


def find_shapes(model: onnx.ModelProto, values: Iterable[str], unit: int) -> dict[str, tuple[int, int]]:
    """Channels of each value, and pixels of x a cell along both sides, measured by running the network once.

    Raises BundleError for a value that is no picture.
    """
    onnxruntime = import_onnxruntime()
    names = list(dict.fromkeys(values))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    size = (2 * unit, 3 * unit)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    feeds = {"x": np.zeros((1, channels, *size), np.float32), "time": np.zeros(1, np.float32)}
    shapes = {}
    for name, value in zip(names, session.run(names, feeds), strict=True):
        sides = value.shape[2:]
        scale = size[0] // sides[0] if len(sides) == 2 and sides[0] else 0
        if not scale or tuple(side * scale for side in sides) != size:
            raise BundleError(f"box: {name!r} has the sizes {list(value.shape)}, which is no picture of {size}")
        shapes[name] = (value.shape[1], scale)
    return shapes


def _norm(graph: Reading, node: onnx.NodeProto) -> tuple[str, int]:
    """The picture that a group norm is of, and the number of its groups."""
    reshape = graph.producers.get(node.input[0])
    shape = graph.constant(reshape.input[1]) if reshape is not None and reshape.op_type == "Reshape" else None
    plain = [graph.constant(name) for name in node.input[1:]]
    if reshape is None or shape is None or len(shape) != 3 or any(value is None for value in plain):
        raise BundleError(f"box: the InstanceNormalization {node.name!r} is no group norm")
    ones, zeros = plain
    if not (np.all(ones == 1) and np.all(zeros == 0)):
        raise BundleError(f"box: the InstanceNormalization {node.name!r} has weights of its own")
    return reshape.input[0], int(shape[1])


def _check_mean(graph: Reading, node: onnx.NodeProto) -> None:
    """Raise BundleError if the ReduceMean is not over height and width."""
    axes = graph.constant(node.input[1]) if len(node.input) > 1 else None
    if axes is None or axes.tolist() not in ([2, 3], [-2, -1]):
        found = "all axes" if axes is None else f"the axes {axes.tolist()}"
        raise BundleError(f"box: the ReduceMean {node.name!r} is over {found}, not over height and width, 2 and 3")


def _is_tiling(pool: onnx.NodeProto) -> bool:
    """Whether the pool's windows lie side by side, so that it computes a box from that box alone."""
    window = attribute(pool, "kernel_shape", ())
    return attribute(pool, "strides", ()) == window and not any(attribute(pool, "pads", ()))


def _keys(graph: Reading) -> list[onnx.NodeProto]:
    """The convolutions whose outputs are keys and values."""
    found = []
    matmuls = [node for node in graph.nodes if node.op_type == "MatMul"]
    if len(matmuls) != 2 * sum(node.op_type == "Softmax" for node in graph.nodes):
        raise BundleError("box: the network has a MatMul that belongs to no attention of the known form")
    for softmax in graph.nodes:
        if softmax.op_type != "Softmax":
            continue
        scores = graph.back(softmax.input[0], "MatMul")
        axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
        if axis not in (-1, 2):
            raise BundleError(f"box: a Softmax is over the axis {axis}, not over the last of 3")
        found.append(graph.back(scores.input[1], "Conv"))
        for node in matmuls:
            sides = [name for name in node.input if _comes_from(graph, name, softmax)]
            if sides:
                (other,) = [name for name in node.input if name not in sides]
                found.append(graph.back(other, "Conv"))
    for conv in found:
        if graph.uses[conv.output[0]] != 1:
            raise BundleError(f"box: {conv.output[0]!r}, of an attention, is used more than once")
    return found


def _comes_from(graph: Reading, name: str, wanted: onnx.NodeProto) -> bool:
    """Whether `name` is the node's output, or a transpose of it."""
    node = graph.producers.get(name)
    while node is not None and node.op_type == "Transpose":
        node = graph.producers.get(node.input[0])
    return node is wanted


def _index(graph: Reading, wanted: onnx.NodeProto) -> int:
    return next(index for index, node in enumerate(graph.nodes) if node is wanted)
