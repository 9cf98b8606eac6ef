"""Large weights of a network that lie in a file of their own, as inputs of its graph, in float32.

An engine reads an input where it lies, so such a weight is in memory once. Initializers are copied by the engine, those
that are stored in half twice.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .graph import nbytes_of
from .protobuf import Field, Reader, encode

LEAST_BYTES = 1 << 16
"""Smaller weights, in float32, stay initializers: an engine joins some of them with their neighbours."""

GRAPH = 7
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
"""Fields of ModelProto and GraphProto."""

DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 1, 2, 8, 9, 13, 14
"""Fields of TensorProto."""

FLOAT, HALF = 1, 10
EXTERNAL = 1
"""The data_location of a tensor whose values lie in another file."""


@dataclass(frozen=True)
class Weight:
    """A weight that becomes an input. stored: its name in the file. name: that of the input.

    half: whether it is stored in half, with a Cast to float32 behind it, which falls away.
    """

    stored: str
    name: str
    dims: tuple[int, ...]
    half: bool

    def values(self, data: bytes) -> np.ndarray:
        """The weight in float32, aligned, of its bytes as they are stored."""
        values = np.frombuffer(data, np.dtype("<f2" if self.half else "<f4")).reshape(self.dims)
        return values.astype(np.float32) if self.half or not values.flags.aligned else values


def large_weights(data: bytes) -> list[Weight]:
    """The large float weights of the ONNX file `data` that lie in other files; graph.check_graph has accepted it.

    A weight stays where it is if its values in half are needed, or if its name is that of an input or output already.
    Raises ValueError if an input or output is malformed, which check_graph does not read.
    """
    reader = Reader(data)
    fields = list(graph_fields(reader))
    nodes = [reader.message(field) for field in fields if field.number == NODE]
    tensors = [reader.message(field) for field in fields if field.number == INITIALIZER]
    uses = Counter(reader.text(part) for node in nodes for part in node if part.number == 1)
    casts = {source: target for source, target in (cast_of(reader, node) for node in nodes) if source}
    taken = {text_of(reader, reader.message(field), 1) for field in fields if field.number in (INPUT, OUTPUT)}
    found = [weight_of(reader, tensor, casts) for tensor in tensors if is_outside(tensor)]
    return [
        weight
        for weight in found
        if weight is not None
        and taken.isdisjoint((weight.stored, weight.name))
        and not (weight.half and uses[weight.stored] > 1)
    ]


def without_weights(data: bytes, weights: list[Weight], outside: Mapping[str, bytes]) -> bytes:
    """The ONNX file with these weights as inputs, and with the bytes `outside` of further weights in other files."""
    reader = Reader(data)
    moved = {weight.stored for weight in weights}
    gone = {(weight.stored, weight.name) for weight in weights if weight.half}

    def parts(field: Field) -> Iterator[bytes]:
        for part in reader.message(field):
            if part.number == INITIALIZER:
                yield from tensor(part)
            elif part.number != NODE or cast_of(reader, reader.message(part)) not in gone:
                yield data[part.start : part.stop]
        yield from (encode(INPUT, declaration(weight)) for weight in weights)

    def tensor(part: Field) -> Iterator[bytes]:
        fields = reader.message(part)
        name = text_of(reader, fields, NAME)
        if name in outside:
            kept = [data[f.start : f.stop] for f in fields if f.number not in (EXTERNAL_DATA, DATA_LOCATION, RAW_DATA)]
            yield encode(INITIALIZER, b"".join([*kept, encode(RAW_DATA, outside[name])]))
        elif name not in moved:
            yield data[part.start : part.stop]

    fields = reader.fields(0, len(data))
    graphs = [field for field in fields if field.number == GRAPH]
    rest = [data[field.start : field.stop] for field in fields if field.number != GRAPH]
    return b"".join([*rest, encode(GRAPH, b"".join(part for graph in graphs for part in parts(graph)))])


def graph_fields(reader: Reader) -> Iterator[Field]:
    """The fields of the model's graph."""
    for field in reader.fields(0, len(reader.data)):
        if field.number == GRAPH:
            yield from reader.message(field)


def text_of(reader: Reader, fields: Iterable[Field], number: int) -> str:
    """The first text with this number, or ""."""
    return next((reader.text(field) for field in fields if field.number == number), "")


def is_outside(tensor: list[Field]) -> bool:
    """Whether the values of a TensorProto with these fields lie in another file."""
    return any(part.number == DATA_LOCATION and part.value == EXTERNAL for part in tensor)


def cast_of(reader: Reader, node: list[Field]) -> tuple[str, str]:
    """Input and output of a node that is a Cast to float32, else ("", "")."""
    if text_of(reader, node, 4) != "Cast":
        return "", ""
    attributes = [reader.message(part) for part in node if part.number == 5]
    to = [value for parts in attributes for value in reader.integers(part for part in parts if part.number == 3)]
    return (text_of(reader, node, 1), text_of(reader, node, 2)) if to == [FLOAT] else ("", "")


def weight_of(reader: Reader, tensor: list[Field], casts: Mapping[str, str]) -> Weight | None:
    """The weight of a TensorProto with these fields, if it is large and float."""
    kind = next(part.value for part in tensor if part.number == DATA_TYPE)
    stored, half = text_of(reader, tensor, NAME), kind == HALF
    name = casts.get(stored, "") if half else stored
    if kind not in (FLOAT, HALF) or not name or nbytes_of(reader, tensor) << half < LEAST_BYTES:
        return None
    return Weight(stored, name, tuple(reader.integers(part for part in tensor if part.number == DIMS)), half)


def declaration(weight: Weight) -> bytes:
    """The ValueInfoProto of a float32 input with the weight's name and shape."""
    shape = b"".join(encode(1, encode(1, size)) for size in weight.dims)
    tensor = encode(1, FLOAT) + encode(2, shape)
    return encode(1, weight.name.encode()) + encode(2, encode(1, tensor))
