"""Check a network's graph before an engine sees it: engines crash on some graphs, and run others for ever.

A file is accepted if it has one graph of the operators in OPERATORS, without subgraphs, functions, sparse tensors or
training. A Gather must read a constant table, at constant indices inside the table, or at an input whose values are
known to be. Constant sizes are bounded.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from sdedit.kernels.layout import MAX_ELEMENTS

from .protobuf import Field, Reader

OPERATORS = frozenset(
    """
    Abs Add And Attention AveragePool BatchNormalization Cast CastLike Ceil Clip Concat Constant ConstantOfShape
    Conv ConvTranspose Cos DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    Gelu Gemm GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity
    InstanceNormalization IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min
    Mish Mul Neg Not Or PRelu Pad Pow QuantizeLinear RMSNormalization Reciprocal ReduceL2 ReduceMax ReduceMean
    ReduceMin ReduceSum ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Slice Softmax
    Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tanh Tile Transpose Unsqueeze Where Xor
    """.split()  # noqa: SIM905 - a list would take eighty lines
)
"""Operators of ONNX's own domain that networks of convolutions and attention need, in float or as int8 (QDQ)."""

DOMAINS = ("", "ai.onnx")

MAX_NODES = 50_000

MAX_SIZE = 1 << 20
"""Largest stride, kernel, padding and the like."""

ATTRIBUTES = {
    "blocksize": 1,
    "dilations": 1,
    "group": 1,
    "kernel_shape": 1,
    "num_outputs": 1,
    "output_padding": 0,
    "pads": 0,
    "strides": 1,
}
"""Attribute that is a size -> its smallest accepted value. Engines divide by some of them."""

SIZES = {"ConstantOfShape": (0,), "Expand": (1,), "Pad": (1,), "Resize": (2, 3), "Tile": (1,)}
"""Operator -> numbers of its inputs that give the size of the tensor that it makes."""

DTYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    4: np.dtype("<u2"),
    5: np.dtype("<i2"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("?"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
    12: np.dtype("<u4"),
    13: np.dtype("<u8"),
    16: np.dtype("<u2"),  # bfloat16: only its size matters here
}
"""ONNX's numbers of the accepted types of constants."""

INTEGERS = (6, 7)
FLOAT32 = 1


@dataclass(frozen=True)
class External:
    """A weight outside the ONNX file: it is bytes offset .. offset + length of the file `location`."""

    name: str
    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class Constant:
    """An initializer, or the value of a Constant node.

    values: its elements, if it is small and has integers or float32; else None.
    """

    dims: tuple[int, ...]
    values: np.ndarray | None
    external: External | None = None


MAX_VALUES = 1 << 20
"""A constant of at most this many elements has its values checked. Larger constants are weights."""


def nbytes_of(reader: Reader, tensor: list[Field]) -> int:
    """Number of bytes of a TensorProto's values; its type must be an accepted one."""
    kind = next(part.value for part in tensor if part.number == 2)
    return prod(reader.integers(part for part in tensor if part.number == 1)) * DTYPES[kind or 0].itemsize


def check_graph(data: bytes, tables: Mapping[str, int] | None = None) -> list[External]:
    """Check the ONNX file `data`, and return its weights that lie outside it.

    tables: inputs that are indices into tables, such as the label, and how many values each may have, from 0 on. Raises
    ValueError, with one line, if the network is not accepted.
    """
    if not data:
        raise ValueError("the ONNX file is empty")
    return _Check(data, tables or {}).run()


class _Check:
    """The check of one file. constants: those read so far, by name. names: all tensors computed so far."""

    def __init__(self, data: bytes, tables: Mapping[str, int]) -> None:
        self.reader = Reader(data)
        self.tables = dict(tables)
        self.constants: dict[str, Constant] = {}
        self.names: set[str] = set()

    def run(self) -> list[External]:
        nodes: list[Field] = []
        external = []
        for part in self._graph():
            if part.number == 1:
                nodes.append(part)
            elif part.number == 5:
                name, constant = self._tensor(part)
                self._define(name)
                self.constants[name] = constant
                external += [constant.external] if constant.external else []
            elif part.number == 15:
                raise ValueError("the network has a sparse tensor: none is accepted")
        if len(nodes) > MAX_NODES:
            raise ValueError(f"the network has {len(nodes)} nodes, more than {MAX_NODES}")
        for node in nodes:
            self._node(node)
        return external

    def _graph(self) -> Iterable[Field]:
        """Fields of the model's graph. If a file has several graph fields, protobuf joins them, and so does this."""
        for field in self.reader.fields(0, len(self.reader.data)):
            if field.number == 25:
                raise ValueError("the network has functions of its own: none are accepted")
            if field.number == 20:
                raise ValueError("the network has a part for training: none is accepted")
            if field.number == 7:
                yield from self.reader.message(field)

    def _define(self, name: str) -> None:
        if name in self.names:
            raise ValueError(f"the network computes {name!r} twice")
        self.names.add(name)
        self.tables.pop(name, None)  # then it is not the input of that name

    def _node(self, field: Field) -> None:
        parts = self.reader.message(field)
        inputs = [self.reader.text(part) for part in parts if part.number == 1]
        outputs = [self.reader.text(part) for part in parts if part.number == 2]
        kind, domain = self._only_text(parts, 4), self._only_text(parts, 7)
        if domain not in DOMAINS or kind not in OPERATORS:
            name = f"{domain}.{kind}" if domain else kind
            raise ValueError(f"the network has the operator {name!r}, which is not one of those accepted")
        attributes = self._attributes(kind, parts)
        for output in outputs:
            if output:
                self._define(output)
        if kind == "Constant" and outputs and "value" in attributes:
            self.constants[outputs[0]] = self._value(attributes["value"])
        elif kind == "Cast" and inputs and outputs and inputs[0] in self.constants:  # a table that is stored in half
            self.constants[outputs[0]] = Constant(self.constants[inputs[0]].dims, None)
        elif kind == "Reshape" and inputs and outputs and inputs[0] in self.tables:
            self.tables[outputs[0]] = self.tables[inputs[0]]
        elif kind == "Gather":
            self._check_gather(inputs, attributes)
        for index in SIZES.get(kind, ()):
            self._check_sizes(kind, inputs[index] if index < len(inputs) else "")

    def _only_text(self, parts: list[Field], number: int) -> str:
        """Text of a field that may occur once; "" if it does not occur."""
        found = [part for part in parts if part.number == number]
        if len(found) > 1:
            raise ValueError("the ONNX file gives a field twice")
        return self.reader.text(found[0]) if found else ""

    def _attributes(self, kind: str, parts: list[Field]) -> dict[str, list[Field]]:
        """Attribute's name -> its fields. Attributes that are sizes are checked."""
        found: dict[str, list[Field]] = {}
        for part in parts:
            if part.number != 5:
                continue
            fields = self.reader.message(part)
            name = self._only_text(fields, 1)
            if name in found:
                raise ValueError(f"a {kind} of the network has {name!r} twice")
            found[name] = fields
            for field in fields:
                if field.number in (6, 11):
                    raise ValueError(f"a {kind} of the network has a graph inside: none is accepted")
                if field.number in (10, 22, 23):
                    raise ValueError(f"a {kind} of the network has sparse tensors or several: none are accepted")
                if field.number == 5 and not (kind in ("Constant", "ConstantOfShape") and name == "value"):
                    raise ValueError(f"a {kind} of the network has a tensor in {name!r}: none is accepted there")
            if name in ATTRIBUTES:
                values = self.reader.integers(field for field in fields if field.number in (3, 8))
                least = ATTRIBUTES[name]
                if not all(least <= value <= MAX_SIZE for value in values):
                    raise ValueError(f"a {kind} of the network has {name} {values[:8]}, not in {least}..{MAX_SIZE}")
        return found

    def _value(self, fields: list[Field]) -> Constant:
        """The tensor in an attribute. Raises ValueError if its values lie outside the file."""
        found = [field for field in fields if field.number == 5]
        if len(found) != 1:
            raise ValueError("a Constant of the network has no tensor, or several")
        _, constant = self._tensor(found[0])
        if constant.external is not None:
            raise ValueError(
                f"a Constant of the network lies in the file {constant.external.location!r}: only weights may"
            )
        return constant

    def _tensor(self, field: Field) -> tuple[str, Constant]:
        """Name and value of a TensorProto."""
        parts = self.reader.message(field)
        dims = tuple(self.reader.integers(part for part in parts if part.number == 1))
        kind = self._only_number(parts, 2)
        name = self._only_text(parts, 8)
        if kind not in DTYPES:
            raise ValueError(f"the constant {name!r} has values of type {kind}, which is not accepted")
        if any(size < 0 for size in dims):
            raise ValueError(f"the constant {name!r} has sizes {list(dims)}")
        if self._only_number(parts, 14) == 1:
            return name, Constant(dims, None, self._external(name, parts, nbytes_of(self.reader, parts)))
        return name, Constant(dims, self._values(name, kind, parts, prod(dims)))

    def _values(self, name: str, kind: int, parts: list[Field], count: int) -> np.ndarray | None:
        """Values of a small constant of integers or float32, else None. The number of values is always checked."""
        field, itemsize = (9, DTYPES[kind].itemsize) if any(part.number == 9 for part in parts) else (4, 4)
        if field == 9 or kind == FLOAT32:  # raw_data, or float_data, which is packed
            found = [part for part in parts if part.number == field and part.value is None]
            if (field == 9 and len(found) > 1) or sum(part.stop - part.begin for part in found) != count * itemsize:
                raise ValueError(f"the constant {name!r} does not have the {count} values of its shape")
            if kind not in (*INTEGERS, FLOAT32) or count > MAX_VALUES:
                return None
            return np.frombuffer(b"".join(map(self.reader.bytes_of, found)), DTYPES[kind])
        values = self.reader.integers(part for part in parts if part.number == (7 if kind == 7 else 5))
        if len(values) != count:
            raise ValueError(f"the constant {name!r} has {len(values)} values, but its shape has {count}")
        return np.array(values, np.int64) if kind in INTEGERS else None

    def _only_number(self, parts: list[Field], number: int) -> int:
        """Value of a numeric field that may occur once; 0 if it does not occur."""
        found = [part for part in parts if part.number == number]
        if len(found) > 1 or any(part.value is None for part in found):
            raise ValueError("the ONNX file gives a field twice, or text for a number")
        return found[0].value or 0 if found else 0

    def _external(self, name: str, parts: list[Field], nbytes: int) -> External:
        """The constant's place. Raises ValueError if its length is not that of its type and shape."""
        entries: dict[str, str] = {}
        for part in parts:
            if part.number == 13:
                fields = self.reader.message(part)
                key = self._only_text(fields, 1)
                if key in entries:
                    raise ValueError(f"the constant {name!r} has {key!r} twice")
                entries[key] = self._only_text(fields, 2)
        numbers = {key: entries.get(key, default) for key, default in (("offset", "0"), ("length", str(nbytes)))}
        if not all(text.isascii() and text.isdigit() and len(text) < 19 for text in numbers.values()):
            raise ValueError(f"the constant {name!r} has {numbers}: numbers of bytes are accepted")
        if int(numbers["length"]) != nbytes:
            raise ValueError(
                f"the constant {name!r} has {numbers['length']} bytes in another file, but its shape takes {nbytes}"
            )
        return External(name, entries.get("location", ""), int(numbers["offset"]), nbytes)

    def _check_gather(self, inputs: list[str], attributes: dict[str, list[Field]]) -> None:
        """Raise ValueError unless the graph itself shows that every index lies in the table."""
        if len(inputs) != 2 or inputs[0] not in self.constants:
            raise ValueError("a Gather of the network reads a table that is not constant")
        dims = self.constants[inputs[0]].dims
        axis = (self.reader.integers(f for f in attributes.get("axis", []) if f.number == 3) or [0])[-1]
        if not -len(dims) <= axis < len(dims):
            raise ValueError(f"a Gather of the network has the axis {axis} in a table of {list(dims)}")
        rows = dims[axis]
        if inputs[1] in self.tables:
            if rows < self.tables[inputs[1]]:
                raise ValueError(
                    f"the network has a table of {rows} {inputs[1]}s, and is given {self.tables[inputs[1]]}"
                )
            return
        indices = self.constants[inputs[1]].values if inputs[1] in self.constants else None
        if indices is None or indices.dtype.kind != "i":
            raise ValueError("a Gather of the network reads at indices that are neither constants nor an input")
        if indices.size and not (indices.min() >= -rows and indices.max() < rows):
            raise ValueError(
                f"a Gather of the network reads rows {indices.min()}..{indices.max()} of a table of {rows}"
            )

    def _check_sizes(self, kind: str, name: str) -> None:
        """Raise ValueError for a constant size with more elements than any image has."""
        values = self.constants[name].values if name in self.constants else None
        if values is None:
            return
        sizes = [float(value) for value in np.abs(values.astype(np.float64)).ravel()]
        if not np.isfinite(sizes).all() or prod(max(size, 1.0) for size in sizes) > MAX_ELEMENTS:
            raise ValueError(f"a {kind} of the network makes a tensor of the size {values.ravel()[:8].tolist()}")
