"""The external files that an ONNX model asks for, read from the protobuf wire format: the runtime has no onnx package.

Only the fields that lead to tensors are walked; their contents are skipped.
"""

from collections.abc import Iterator

# Message -> field number -> message, for every way from a model to a tensor (onnx.proto, IR version 13).
CHILDREN = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "StringStringEntry"},
    "StringStringEntry": {},
}
MAX_DEPTH = 100
"""Most levels of nested messages; protobuf refuses more."""


def external_files(data: bytes) -> set[str]:
    """The `location` of every tensor that an ONNX file keeps outside itself.

    Raises ValueError if the bytes are no well-formed protobuf message.
    """
    if not data:
        raise ValueError("the ONNX file is empty")
    return set(_locations(data, 0, len(data), "Model", 0))


def _locations(data: bytes, start: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        raise ValueError("the ONNX file nests too deeply")
    for number, begin, stop in _fields(data, start, end):
        child = CHILDREN[message].get(number)
        if child == "StringStringEntry":
            entry = {n: data[b:s] for n, b, s in _fields(data, begin, stop) if n in (1, 2)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()
        elif child:
            yield from _locations(data, begin, stop, child, depth + 1)


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each length-delimited field of the message in data[at:end]."""
    while at < end:
        tag, at = _varint(data, at, end)
        if tag >= 2**32 or tag < 8:
            raise ValueError("the ONNX file has an invalid field tag")
        wire = tag & 7
        if wire == 0:
            _, at = _varint(data, at, end)
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            size, at = _varint(data, at, end)
            yield tag >> 3, at, at + size if at + size <= end else _truncated()
            at += size
        else:
            raise ValueError(f"the ONNX file has a field of wire type {wire}")
    if at != end:
        _truncated()


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            _truncated()
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("the ONNX file has a number of more than 64 bits")


def _truncated() -> int:
    raise ValueError("the ONNX file is truncated")
