"""A graph that grows node by node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PICTURE = (2, 3)
"""Axes of height and width."""


class Writer:
    """Nodes, constants, inputs and outputs of a graph that is made from another.

    A box is given by the inputs `pos`, its upper left corner, and `size`: int64 [2], rows and columns in pixels.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes: list[onnx.NodeProto] = []
        self._made: dict[object, str] = {}
        self._count = 0

    def constant(self, values: Sequence[int] | np.ndarray) -> str:
        """A constant; integers are int64."""
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            self._made[key] = self._name("constant")
            self.model.graph.initializer.append(numpy_helper.from_array(array, self._made[key]))
        return self._made[key]

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """A node with one output, whose name it returns."""
        name = self._name(kind) if out is None else out
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=f"box.{name}", **attributes))
        return name

    def keep(self, node: onnx.NodeProto) -> None:
        """Take a node over as it is."""
        self.nodes.append(node)

    def cells(self, name: str, scale: int) -> str:
        """The input `pos` or `size` in cells of that scale, computed once."""
        key = (name, scale)
        if key not in self._made:
            self._made[key] = name if scale == 1 else self.add("Div", name, self.constant([scale]))
        return self._made[key]

    def box_of(self, picture: str, scale: int) -> str:
        """The box of a picture, cut once."""
        key = ("box", picture)
        if key not in self._made:
            self._made[key] = self.cut(picture, self.cells("pos", scale), self.cells("size", scale))
        return self._made[key]

    def padded(self, picture: str, pads: str) -> str:
        """The picture with zeros around it, made once."""
        key = ("padded", picture, pads)
        if key not in self._made:
            self._made[key] = self.add("Pad", picture, pads)
        return self._made[key]

    def cut(self, picture: str, start: str, length: str) -> str:
        """`length` rows and columns from `start` on."""
        return self.add("Slice", picture, start, self.add("Add", start, length), self.constant(PICTURE))

    def placed(self, box: str, whole: str, scale: int) -> str:
        """A picture as large as `whole`: the box where it lies, zeros elsewhere."""
        start = self.cells("pos", scale)
        sides = [self.add("Shape", name, start=2, end=4) for name in (whole, box)]
        after = self.add("Sub", self.add("Sub", sides[0], start), sides[1])
        zeros = self.constant([0, 0])
        return self.add("Pad", box, self.add("Concat", zeros, start, zeros, after, axis=0))

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self.model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, rank: int) -> None:
        sides = [f"{name}.{axis}" for axis in range(rank)]
        self.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sides))

    def finish(self) -> onnx.ModelProto:
        """The model with these nodes."""
        graph = self.model.graph
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(nodes)
        onnx.checker.check_model(self.model)
        return self.model

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"box.{kind}.{self._count}"


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, to be changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
