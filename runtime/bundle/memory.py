"""A network whose weights outside the ONNX file are given to an engine at their place in memory.

So the engine reads the very bytes that were verified, not a file that may have changed since. The mark for it is ONNX
Runtime's; OpenVINO reads it as well. No file of a bundle may have its name: manifest.stays_inside refuses `*`.
"""

from collections.abc import Callable, Mapping

from .graph import nbytes_of
from .protobuf import Field, Reader, encode

IN_MEMORY = "*/_ORT_MEM_ADDR_/*"
"""A location that says: `offset` is an address in this process."""

GRAPH, INITIALIZER = 7, 5
EXTERNAL_DATA = 13
KEY, VALUE = 1, 2
"""Numbers of fields of ModelProto, GraphProto, TensorProto and StringStringEntryProto."""


def with_weights_in_memory(data: bytes, addresses: Mapping[str, int]) -> bytes:
    """The ONNX file `data`, which graph.check_graph has accepted, with addresses in the place of files.

    addresses: where the content of each file lies; it must stay there until the engine has read the network.
    """
    reader = Reader(data)

    def tensor(field: Field) -> bytes:
        parts = reader.message(field)
        entries = [
            {part.number: reader.text(part) for part in reader.message(e)} for e in parts if e.number == EXTERNAL_DATA
        ]
        if not entries:
            return reader.bytes_of(field)
        place = {"offset": "0", "length": str(nbytes_of(reader, parts))}
        place |= {entry.get(KEY, ""): entry.get(VALUE, "") for entry in entries}
        place["offset"] = str(addresses[place["location"]] + int(place["offset"]))
        place["location"] = IN_MEMORY
        pairs = [encode(KEY, key.encode()) + encode(VALUE, value.encode()) for key, value in place.items()]
        kept = [data[part.start : part.stop] for part in parts if part.number != EXTERNAL_DATA]
        return b"".join([*kept, *(encode(EXTERNAL_DATA, pair) for pair in pairs)])

    def graph(field: Field) -> bytes:
        return _replaced(reader, reader.message(field), field.begin, field.stop, INITIALIZER, tensor)

    return _replaced(reader, reader.fields(0, len(data)), 0, len(data), GRAPH, graph)


def _replaced(
    reader: Reader, fields: list[Field], begin: int, stop: int, number: int, change: Callable[[Field], bytes]
) -> bytes:
    """data[begin:stop] with new content in every field of that number."""
    parts, at = [], begin
    for field in fields:
        if field.number == number:
            parts += [reader.data[at : field.start], encode(number, change(field))]
            at = field.stop
    return b"".join([*parts, reader.data[at:stop]])
