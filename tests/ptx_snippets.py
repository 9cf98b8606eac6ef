"""Wrap PTX around a body or one instruction for the emulator's tests, and read the results from memory."""

from typing import Any

import numpy as np
import ptx
from device_memory import DeviceMemory
from ptx import TYPES

HEADER = ".version 7.4\n.target sm_75\n.address_size 64\n"

REGISTERS = """
.reg .pred %p<8>;
.reg .b16 %h<8>;
.reg .b32 %r<16>;
.reg .b64 %d<16>;
"""


def module(body: str, params: tuple[str, ...] = ("u64", "u64"), threads: str = "4") -> str:
    """PTX of a kernel `test` with the given parameters p0, p1, ... and threads in a block."""
    declared = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(params))
    return f"{HEADER}.visible .entry test({declared})\n.reqntid {threads}\n{{\n{REGISTERS}\n{body}\nret;\n}}\n"


def pack(*addresses: int) -> bytes:
    return np.array(addresses, np.uint64).tobytes()


def upload(memory: DeviceMemory, array: np.ndarray) -> int:
    address = memory.alloc(array.nbytes)
    memory.write(address, array)
    return address


# One instruction: every thread, which is a block, loads its sources, computes and stores.

LOAD = """
ld.param.u64 %d0, [p{i}];
mad.wide.u32 %d0, %r0, {size}, %d0;
ld.global.{kind} %x{i}, [%d0];
"""

LOAD_PREDICATE = """
ld.param.u64 %d0, [p{i}];
mad.wide.u32 %d0, %r0, 4, %d0;
ld.global.u32 %r1, [%d0];
setp.ne.u32 %x{i}, %r1, 0;
"""

STORE = """
ld.param.u64 %d1, [p{i}];
mad.wide.u32 %d1, %r0, {size}, %d1;
st.global.{kind} [%d1], %y;
"""

STORE_PREDICATE = """
ld.param.u64 %d1, [p{i}];
mad.wide.u32 %d1, %r0, 4, %d1;
selp.u32 %r1, 1, 0, %y;
st.global.u32 [%d1], %r1;
"""

REGISTER = {"u8": "u16", "s8": "s16"}
"""Registers have 16 bits at the least."""

IN_MEMORY = {"pred": "u32", "f16": "b16"}
"""Type under which values of a type are loaded and stored."""


def evaluate(opcode: str, result: str, *sources: tuple[str, Any]) -> np.ndarray:
    """Results of the instruction for the values; sources: (type, values). Predicates are 0 and 1 of u32."""
    columns = [np.array(values, TYPES["u32" if kind == "pred" else kind]) for kind, values in sources]
    memory = DeviceMemory(1 << 18)
    addresses = [upload(memory, column) for column in columns]
    out = memory.alloc(8 * columns[0].size)
    kernel = ptx.parse(one_instruction(opcode, result, [kind for kind, _ in sources]))
    ptx.launch(kernel, memory, (columns[0].size, 1, 1), pack(*addresses, out))
    return memory.read(out, columns[0].shape, TYPES["u32" if result == "pred" else result])


def one_instruction(opcode: str, result: str, sources: list[str]) -> str:
    body = "mov.u32 %r0, %ctaid.x;"
    for i, kind in enumerate(sources):
        body += f".reg .{REGISTER.get(kind, kind)} %x{i};"
        body += access(LOAD_PREDICATE if kind == "pred" else LOAD, i, kind)
    body += f".reg .{REGISTER.get(result, result)} %y;"
    body += f"{opcode} %y, {', '.join(f'%x{i}' for i in range(len(sources)))};"
    body += access(STORE_PREDICATE if result == "pred" else STORE, len(sources), result)
    return module(body, ("u64",) * (len(sources) + 1), "1")


def access(text: str, i: int, kind: str) -> str:
    return text.format(i=i, size=TYPES[kind].itemsize, kind=IN_MEMORY.get(kind, kind))


# A body: what it leaves at the kernel's only parameter.


def run(body: str, dtype: Any, count: int, threads: str = "4", grid: tuple[int, int, int] = (1, 1, 1)) -> list[Any]:
    """Run a kernel and return the `count` values at its only parameter p0."""
    memory = DeviceMemory(1 << 20)
    out = memory.alloc(np.dtype(dtype).itemsize * count)
    ptx.launch(ptx.parse(module(body, ("u64",), threads)), memory, grid, pack(out))
    return memory.read(out, (count,), dtype).tolist()


OUT = """
mov.u32 %r0, %tid.x;
ld.param.u64 %d0, [p0];
mad.wide.u32 %d0, %r0, 4, %d0;
"""
