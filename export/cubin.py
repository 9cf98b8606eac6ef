"""Read a cubin's facts about its kernel from the ELF file: parameters, threads, registers, stack.

Facts of NVIDIA's format used here: `.nv.info.<kernel>` is a list of attributes, of which 0x17 describes one parameter,
0x19 the parameters' size, 0x10 the required threads; `.nv.info` has registers (0x2f) and stack (0x11) of each function.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

PARAMETER, PARAMETERS_SIZE, REQUIRED_THREADS, REGISTERS, FRAME_SIZE = 0x17, 0x19, 0x10, 0x2F, 0x11
SIZED_VALUE = 4
"""The format of attributes that carry a length and a value; all others carry two bytes."""


@dataclass(frozen=True)
class Cubin:
    """kernel: its name. parameters: (offset, size) in bytes, in order. threads: of a block. frame: bytes of stack."""

    kernel: str
    parameters: tuple[tuple[int, int], ...]
    parameter_bytes: int
    threads: int
    registers: int
    shared: int
    frame: int


def read_cubin(data: bytes) -> Cubin:
    """Read a cubin's bytes; raises ValueError unless they are a cubin with one kernel."""
    try:
        headers = {name: (offset, size) for name, offset, size in _sections(data)}
        sections = {name: data[offset : offset + size] for name, (offset, size) in headers.items()}
        (text,) = [name for name in sections if name.startswith(".text.")]
        kernel = text.removeprefix(".text.")
        attributes = list(_attributes(sections[f".nv.info.{kernel}"]))
        described = [struct.unpack("<IHHI", value) for code, value in attributes if code == PARAMETER]
        values = dict(attributes)
        functions = list(_attributes(sections[".nv.info"]))
        return Cubin(
            kernel=kernel,
            parameters=tuple((offset, bits >> 18) for _, _, offset, bits in sorted(described, key=lambda p: p[1])),
            parameter_bytes=struct.unpack("<H", values[PARAMETERS_SIZE])[0],
            threads=struct.unpack("<III", values[REQUIRED_THREADS])[0],
            registers=_largest(functions, REGISTERS),
            shared=headers.get(f".nv.shared.{kernel}", (0, 0))[1],  # a section without bytes in the file
            frame=_largest(functions, FRAME_SIZE),
        )
    except (struct.error, KeyError, IndexError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"not a cubin with one kernel: {error}") from None


def _largest(functions: list[tuple[int, bytes]], wanted: int) -> int:
    """Largest number of one attribute, whose values are (function, number)."""
    return max(struct.unpack("<II", value)[1] for code, value in functions if code == wanted)


def _sections(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each section of a 64-bit little-endian ELF file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    entry_size, count, names_index = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size) for i in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, size, *_ in headers:
        end = data.index(b"\0", names + name)
        yield data[names + name : end].decode(), offset, size


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Code and value of each attribute."""
    at = 0
    while at < len(data):
        form, code = data[at], data[at + 1]
        size = struct.unpack_from("<H", data, at + 2)[0] if form == SIZED_VALUE else 0
        yield code, data[at + 4 : at + 4 + size] if form == SIZED_VALUE else data[at + 2 : at + 4]
        at += 4 + size
