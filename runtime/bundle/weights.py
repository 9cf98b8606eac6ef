"""A network's large weights apart from its graph: inputs of it, in float32.

An engine reads an input where it lies, so the weights are in memory once. A weight that the graph holds is copied by
the engine, and one that is stored in half twice.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .graph import nbytes_of
from .protobuf import Field, Reader, encode

LEAST_BYTES = 1 << 16
"""Smaller weights, in float32, stay in the graph: an engine joins some of them with their neighbours."""

GRAPH = 7
NODE, INITIALIZER, INPUT = 1, 5, 11
"""Fields of ModelProto and GraphProto."""

DIMS, DATA_TYPE, NAME, RAW_DATA, EXTERNAL, LOCATION = 1, 2, 8, 9, 13, 14
"""Fields of TensorProto."""

FLOAT, HALF = 1, 10


@dataclass(frozen=True)
class Weight:
    """A weight that becomes an input. stored: its name in the file. name: that of the input.

    half: whether it is stored in half, with a Cast to float32 behind it, which falls away. place: of its values in the
    ONNX file; None if they lie in another file.
    """

    stored: str
    name: str
    dims: tuple[int, ...]
    half: bool
    place: slice | None

    def values(self, data: bytes | memoryview) -> np.ndarray:
        """The weight in float32, aligned, of its bytes as they are stored."""
        kind = np.dtype("<f2" if self.half else "<f4")
        values = np.frombuffer(data, kind).reshape(self.dims)
        return values.astype(np.float32) if self.half or not values.flags.aligned else values


def large_weights(data: bytes) -> list[Weight]:
    """The large float weights of the ONNX file `data`, which graph.check_graph has accepted."""
    reader = Reader(data)
    uses: Counter[str] = Counter()
    casts: dict[str, str] = {}
    inputs: set[str] = set()
    for field in graph_fields(reader):
        if field.number == NODE:
            uses.update(reader.text(part) for part in reader.message(field) if part.number == 1)
            casts |= cast_of(reader, field)
        elif field.number == INPUT:
            inputs |= {reader.text(part) for part in reader.message(field) if part.number == 1}
    found = []
    for field in graph_fields(reader):
        if field.number == INITIALIZER:
            weight = weight_of(reader, reader.message(field), casts)
            if weight is None or not inputs.isdisjoint((weight.stored, weight.name)):
                continue
            if not weight.half or uses[weight.stored] == 1:
                found.append(weight)
    return found


def without_weights(data: bytes, weights: list[Weight], outside: Mapping[str, bytes]) -> bytes:
    """The ONNX file with these weights as inputs, and with the bytes `outside` of further weights in other files."""
    reader = Reader(data)
    moved = {weight.stored for weight in weights}
    gone = {weight.stored: weight.name for weight in weights if weight.half}

    def parts(field: Field) -> Iterator[bytes]:
        for part in reader.message(field):
            if part.number == INITIALIZER:
                yield from tensor(part)
            elif part.number != NODE or not cast_of(reader, part).items() & gone.items():
                yield data[part.start : part.stop]
        yield from (encode(INPUT, declaration(weight)) for weight in weights)

    def tensor(part: Field) -> Iterator[bytes]:
        fields = reader.message(part)
        (name,) = (reader.text(field) for field in fields if field.number == NAME)
        if name in outside:
            kept = [data[f.start : f.stop] for f in fields if f.number not in (EXTERNAL, LOCATION, RAW_DATA)]
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


def cast_of(reader: Reader, field: Field) -> dict[str, str]:
    """Input and output of a node that is a Cast to float32, else nothing."""
    parts = reader.message(field)
    if "Cast" not in (reader.text(part) for part in parts if part.number == 4):
        return {}
    names = {number: next(reader.text(part) for part in parts if part.number == number) for number in (1, 2)}
    attributes = [reader.message(part) for part in parts if part.number == 5]
    to = [value for parts in attributes for value in reader.integers(part for part in parts if part.number == 3)]
    return {names[1]: names[2]} if to == [FLOAT] else {}


def weight_of(reader: Reader, parts: list[Field], casts: Mapping[str, str]) -> Weight | None:
    """The weight of a TensorProto with these fields, if it is large and float."""
    (kind,) = (part.value for part in parts if part.number == DATA_TYPE)
    (name,) = (reader.text(part) for part in parts if part.number == NAME)
    half = kind == HALF
    if (half and name not in casts) or kind not in (FLOAT, HALF) or nbytes_of(reader, parts) << half < LEAST_BYTES:
        return None
    dims = tuple(reader.integers(part for part in parts if part.number == DIMS))
    raw = [part for part in parts if part.number == RAW_DATA]
    is_outside = any(part.number == EXTERNAL for part in parts)
    if not raw and not is_outside:
        return None  # values as numbers of the message
    place = None if is_outside else slice(raw[0].begin, raw[0].stop)
    return Weight(name, casts[name] if half else name, dims, half, place)


def declaration(weight: Weight) -> bytes:
    """The ValueInfoProto of a float32 input with the weight's name and shape."""
    shape = b"".join(encode(1, encode(1, size)) for size in weight.dims)
    tensor = encode(1, FLOAT) + encode(2, shape)
    return encode(1, weight.name.encode()) + encode(2, encode(1, tensor))
