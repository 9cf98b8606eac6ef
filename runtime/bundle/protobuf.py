"""The fields of a protobuf message, read from its wire format: the runtime has no onnx package.

A length-delimited field is skipped, not copied, so weights cost nothing. The number of fields is bounded, and so is the
time that any file takes.
"""

from collections.abc import Iterable
from typing import NamedTuple

MAX_FIELDS = 300_000
"""Fields that are read of one file at most; the largest network of docs/checkpoints.md has a tenth of them."""

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""The wire types in use; groups are deprecated, and ONNX has none."""


class Field(NamedTuple):
    """One field, which takes data[start:stop]. begin: of its content, if it is length-delimited. value: of a varint."""

    number: int
    start: int
    begin: int
    stop: int
    value: int | None


class Reader:
    """Reads messages of one file. All its methods raise ValueError where the file is no well-formed message."""

    def __init__(self, data: bytes, what: str = "the ONNX file") -> None:
        self.data = data
        self.what = what
        self._left = MAX_FIELDS

    def fields(self, begin: int, stop: int) -> list[Field]:
        """The varint and length-delimited fields of the message in data[begin:stop], in order."""
        data, found = self.data, []
        at = begin
        while at < stop:
            start = at
            tag = data[at]  # nearly all numbers are one byte
            at += 1
            if tag >= 0x80:
                tag, at = self._varint(start, stop)
            number, wire = tag >> 3, tag & 7
            if tag >= 2**32 or number == 0:
                raise ValueError(f"{self.what} has an invalid field tag")
            if wire in (VARINT, DELIMITED):
                value, content = data[at] if at < stop else 0x80, at + 1
                if value >= 0x80:
                    value, content = self._varint(at, stop)
                if wire == DELIMITED:
                    found.append(Field(number, start, content, content + value, None))
                    at = content + value
                else:
                    found.append(Field(number, start, at, content, value))
                    at = content
                if len(found) > self._left:
                    break
            elif wire in (FIXED32, FIXED64):
                at += 8 if wire == FIXED64 else 4
                self._count(1)
            else:
                raise ValueError(f"{self.what} has a field of wire type {wire}")
        self._count(len(found))
        if at != stop:
            raise self._truncated()
        return found

    def message(self, field: Field) -> list[Field]:
        """The fields of the message in a length-delimited field."""
        if field.value is not None:
            raise ValueError(f"{self.what} has a number in the place of a message")
        return self.fields(field.begin, field.stop)

    def bytes_of(self, field: Field) -> bytes:
        """The content of a length-delimited field."""
        if field.value is not None:
            raise ValueError(f"{self.what} has a number in the place of text")
        return self.data[field.begin : field.stop]

    def text(self, field: Field) -> str:
        """The content of a string field."""
        try:
            return self.bytes_of(field).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.what} has a text that is no UTF-8") from None

    def integers(self, fields: Iterable[Field]) -> list[int]:
        """The values of a repeated integer field, packed or not; signed, of 64 bits."""
        values: list[int] = []
        for field in fields:
            if field.value is not None:
                values.append(signed(field.value))
                continue
            at = field.begin
            while at < field.stop:
                self._count(1)
                value, at = self._varint(at, field.stop)
                values.append(signed(value))
        return values

    def _count(self, fields: int) -> None:
        self._left -= fields
        if self._left < 0:
            raise ValueError(f"{self.what} has more than {MAX_FIELDS} fields")

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= stop:
                raise self._truncated()
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise ValueError(f"{self.what} has a number of more than 64 bits")

    def _truncated(self) -> ValueError:
        return ValueError(f"{self.what} is truncated")


def encode(number: int, content: bytes | int) -> bytes:
    """A field: length-delimited for bytes, a varint for an integer of at least 0."""
    if isinstance(content, int):
        return _encode_varint(number << 3 | VARINT) + _encode_varint(content)
    return _encode_varint(number << 3 | DELIMITED) + _encode_varint(len(content)) + content


def _encode_varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def signed(value: int) -> int:
    """A varint's value as a signed integer of 64 bits."""
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value
