"""Programs in the PTX emulator: predicates, literals, vectors, indices, and kernels of Triton against numpy."""

import functools
import math
import tempfile
from typing import Any

import numpy as np
import ptx
import pytest
import triton
import triton.language as tl
from device_memory import DeviceFault, DeviceMemory
from ptx_snippets import OUT, module, pack, run, upload


def test_predication() -> None:
    body = """
    mov.u32 %r1, 10;
    setp.lt.u32 %p1, %r0, 2;
    @%p1 add.u32 %r1, %r1, 5;
    @!%p1 sub.u32 %r1, %r1, %r0;
    st.global.u32 [%d0], %r1;
    """
    assert run(OUT + body, np.uint32, 4) == [15, 15, 8, 7]


def test_a_store_under_a_predicate_leaves_the_others_uninitialised() -> None:
    body = "setp.lt.u32 %p1, %r0, 2; @%p1 st.global.u32 [%d0], %r0;"
    assert run(OUT + body, np.uint32, 2) == [0, 1]
    with pytest.raises(DeviceFault, match="copy to the host: uninitialised read"):
        run(OUT + body, np.uint32, 4)


def test_registers_written_under_both_predicates_are_written() -> None:
    body = """
    setp.lt.u32 %p1, %r0, 2;
    @%p1 mov.u32 %r1, 7;
    {second} mov.u32 %r1, 8;
    st.global.u32 [%d0], %r1;
    """
    assert run(OUT + body.format(second="@!%p1"), np.uint32, 4) == [7, 7, 8, 8]
    with pytest.raises(DeviceFault, match=r"test: reads %r1, which was not written, in st\.global"):
        run(OUT + body.format(second="@%p1"), np.uint32, 4)


def test_reading_a_register_that_nothing_wrote() -> None:
    with pytest.raises(DeviceFault, match=r"reads %r5, which was not written, in add\.u32 %r1, %r5, 1"):
        run(OUT + "add.u32 %r1, %r5, 1;", np.uint32, 4)


def test_a_partly_written_register_may_be_read_where_it_was_written() -> None:
    body = "setp.lt.u32 %p1, %r0, 2; @%p1 mov.u32 %r1, 7; @%p1 st.global.u32 [%d0], %r1;"
    assert run(OUT + body, np.uint32, 2) == [7, 7]


def test_literals() -> None:
    body = """
    mov.u32 %r1, -1;
    mov.b32 %r2, 0f3F800000;
    mov.u32 %r3, 0xFFU;
    mov.pred %p1, -1;
    selp.u32 %r4, 3, 4, %p1;
    st.global.v4.u32 [%d0], {%r1, %r2, %r3, %r4};
    """
    assert run(OUT + body, np.uint32, 4, threads="1") == [2**32 - 1, 0x3F800000, 255, 3]


def test_vectors_pack_and_unpack() -> None:
    body = """
    mov.b64 %d1, 0x1122334455667788;
    mov.b64 {%r1, %r2}, %d1;
    mov.b64 {_, %r3}, %d1;
    mov.b32 {%h1, %h2}, %r1;
    mov.b32 %r4, {%h2, %h1};
    mov.b64 %d2, {%r2, %r4};
    mov.b64 %d3, {%h1, %h1, %h2, %h2};
    st.global.v2.b64 [%d0], {%d2, %d3};
    st.global.b32 [%d0 + 16], %r3;
    """
    packed = np.array(run(OUT + body, np.uint32, 5, threads="1"), np.uint32)
    assert [hex(word) for word in packed] == ["0x11223344", "0x77885566", "0x77887788", "0x55665566", "0x11223344"]


@pytest.mark.parametrize(("dtype", "kind"), [(np.int8, "s8"), (np.uint8, "u8"), (np.int16, "s16"), (np.uint16, "b16")])
def test_narrow_loads_and_stores(dtype: Any, kind: str) -> None:
    """A load extends to the register, by the sign of signed types; a store takes the low bits."""
    values = np.array([-1, -128, 127, 1]).astype(dtype)
    memory = DeviceMemory(1 << 20)
    source, out = upload(memory, values), memory.alloc(16)
    size = values.itemsize
    body = f"""
    mov.u32 %r0, %tid.x;
    ld.param.u64 %d0, [p0];
    mad.wide.u32 %d0, %r0, {size}, %d0;
    ld.global.{kind} %r1, [%d0];
    st.global.{kind} [%d0], %r1;
    ld.param.u64 %d1, [p1];
    mad.wide.u32 %d1, %r0, 4, %d1;
    st.global.b32 [%d1], %r1;
    """
    ptx.launch(ptx.parse(module(body)), memory, (1, 1, 1), pack(source, out))
    assert memory.read(source, (4,), dtype).tolist() == values.tolist()
    assert memory.read(out, (4,), np.int32).tolist() == values.tolist()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_vector_loads_and_stores(count: int) -> None:
    memory = DeviceMemory(1 << 20)
    values = np.arange(4 * count, dtype=np.uint32)
    source, out = upload(memory, values), memory.alloc(16 * count)
    vector = "" if count == 1 else f".v{count}"
    registers = ", ".join(f"%r{i + 1}" for i in range(count))
    body = f"""
    mov.u32 %r0, %tid.x;
    ld.param.v2.u64 {{%d0, %d1}}, [p0];
    mad.wide.u32 %d0, %r0, {4 * count}, %d0;
    mad.wide.u32 %d1, %r0, {4 * count}, %d1;
    ld.global.L1::evict_last{vector}.b32 {{ {registers} }}, [ %d0 + 0 ];
    st.global.cg{vector}.b32 [ %d1 + 0 ], {{ {registers} }};
    """
    text = module(body, ("u64",)).replace(".param .u64 p0", ".param .align 8 .b8 p0[16]")
    kernel = ptx.parse(text)
    assert kernel.params == (("p0", 0, 16),)
    ptx.launch(kernel, memory, (1, 1, 1), pack(source, out))
    assert memory.read(out, values.shape, np.uint32).tolist() == values.tolist()


def test_special_registers() -> None:
    """Every thread of a grid of 3-D blocks says where it is."""
    block, grid = (3, 2, 2), (2, 3, 2)
    names = [f"%{name}.{axis}" for name in ("ntid", "nctaid", "tid", "ctaid") for axis in "xyz"]
    place = "mov.u32 %r1, %ctaid.z;"
    for size, index in [("nctaid.y", "ctaid.y"), ("nctaid.x", "ctaid.x")]:
        place += f"mad.lo.u32 %r1, %r1, %{size}, %{index};"
    for size, index in [("ntid.z", "tid.z"), ("ntid.y", "tid.y"), ("ntid.x", "tid.x")]:
        place += f"mad.lo.u32 %r1, %r1, %{size}, %{index};"
    body = place + "ld.param.u64 %d0, [p0]; mad.wide.u32 %d0, %r1, 48, %d0;"
    body += "".join(f"mov.u32 %r2, {name}; st.global.u32 [%d0 + {4 * i}], %r2;" for i, name in enumerate(names))
    count = math.prod(block) * math.prod(grid)
    found = np.array(run(body, np.uint32, 12 * count, "3, 2, 2", grid)).reshape(count, 12)
    indices = np.indices((*grid[::-1], *block[::-1])).reshape(6, count)
    assert (found[:, :6] == [*block, *grid]).all()
    assert (found[:, 6:] == indices[::-1].T).all()


# What Triton makes, end to end.


@triton.jit
def small_kernel(p_x, p_index, p_out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """Grid: (blocks, rows). Row r of the result is computed from row index[r] of x."""
    row = tl.program_id(1)
    source = tl.load(p_index + row)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    x = tl.load(p_x + source * n + i, mask=inside, other=0.0)
    word = tl.umulhi(i.to(tl.uint32) * 0x9E3779B9 + row, tl.full((), 0xD2511F53, tl.uint32))
    scale = (word >> 9).to(tl.int32).to(tl.float32) * 1.1920928955078125e-07
    y = tl.where(x < 0.0, -x, tl.sqrt_rn(x)) * scale + x
    tl.store(p_out + row * n + i, y, mask=inside)


def small_numpy(x: np.ndarray, index: np.ndarray) -> np.ndarray:
    rows, i = np.arange(index.size, dtype=np.uint32)[:, None], np.arange(x.shape[1], dtype=np.uint32)
    word = ((i * np.uint32(0x9E3779B9) + rows).astype(np.uint64) * np.uint64(0xD2511F53) >> np.uint64(32)).astype(
        np.uint32
    )
    scale = (word >> np.uint32(9)).astype(np.float32) * np.float32(2.0**-23)
    x = x[index]
    with np.errstate(invalid="ignore"):
        return np.where(x < 0, -x, np.sqrt(x)) * scale + x


@functools.cache
def compile_small(aligned: bool) -> ptx.Kernel:
    """A Triton kernel. aligned: pointers and n are multiples of 16, for accesses of 128 bits."""
    types = {"p_x": "*fp32", "p_index": "*i32", "p_out": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    divisible = {(i,): [["tt.divisibility", 16]] for i in range(4)} if aligned else {}
    with tempfile.TemporaryDirectory() as folder, triton.knobs.cache.scope():
        triton.knobs.cache.dir = folder
        compiled = triton.compile(
            triton.compiler.ASTSource(small_kernel, types, {"BLOCK": 512}, divisible),
            target=triton.backends.compiler.GPUTarget("cuda", 75, 32),
            options={"num_warps": 4, "enable_fp_fusion": False, "ptx_version": 74},
        )
    assert ("ld.global.v4.b32" in compiled.asm["ptx"]) == aligned
    return ptx.parse(compiled.asm["ptx"])


@pytest.mark.parametrize(
    ("aligned", "n"), [(True, 16), (True, 512), (True, 1040), (False, 1), (False, 37), (False, 512), (False, 1029)]
)
def test_a_triton_kernel_gives_the_bits_of_numpy(aligned: bool, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
    index = np.array([2, 0, 1, 2], np.int32)
    memory = DeviceMemory(1 << 20)
    addresses = [upload(memory, x), upload(memory, index), memory.alloc(4 * index.size * n)]
    parameters = pack(*addresses) + np.int32(n).tobytes() + bytes(4) + pack(0, 0)
    ptx.launch(compile_small(aligned), memory, (-(-n // 512), index.size, 1), parameters)
    result = memory.read(addresses[2], (index.size, n), np.float32)
    assert (result.view(np.uint32) == small_numpy(x, index).view(np.uint32)).all()


@pytest.mark.parametrize("aligned", [True, False])
def test_a_triton_kernel_with_a_wrong_index_faults(aligned: bool) -> None:
    memory = DeviceMemory(1 << 20)
    x = upload(memory, np.zeros((3, 64), np.float32))
    addresses = [x, upload(memory, np.array([3], np.int32)), memory.alloc(256)]
    parameters = pack(*addresses) + np.int32(64).tobytes() + bytes(4) + pack(0, 0)
    with pytest.raises(DeviceFault, match="small_kernel: out of bounds read"):
        ptx.launch(compile_small(aligned), memory, (1, 1, 1), parameters)
