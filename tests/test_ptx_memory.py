"""The PTX emulator's memory: wrong accesses of kernels are faults, and so are those of the host."""

import numpy as np
import ptx
import pytest
from device_memory import GAP, DeviceFault, DeviceMemory
from ptx_snippets import OUT, module, pack, run, upload

# Faults.

COPY = """
mov.u32 %r0, %tid.x;
ld.param.u64 %d0, [p0];
ld.param.u64 %d1, [p1];
mad.wide.u32 %d0, %r0, 16, %d0;
mad.wide.u32 %d1, %r0, 16, %d1;
ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%d0];
st.global.v4.b32 [%d1], {%r1, %r2, %r3, %r4};
"""


def copy(memory: DeviceMemory, source: int, out: int, grid: tuple[int, int, int] = (1, 1, 1)) -> None:
    """Four threads copy 64 bytes."""
    ptx.launch(ptx.parse(module(COPY)), memory, grid, pack(source, out))


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory(1 << 16)


@pytest.fixture
def source(memory: DeviceMemory) -> int:
    return upload(memory, np.arange(16, dtype=np.float32))


def test_a_copy_by_threads(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(64)
    copy(memory, source, out)
    assert memory.read(out, (16,), np.float32).tolist() == list(range(16))


def test_a_store_past_the_end(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(60)
    with pytest.raises(DeviceFault) as fault:
        copy(memory, source, out)
    end = f"{out + 60:#x}, byte 60 of the 60 bytes at {out:#x}"
    assert str(fault.value).startswith(f"test: out of bounds write of 16 bytes at {end}, in st.global.v4.b32 [%d1]")


def test_a_load_past_the_end(memory: DeviceMemory) -> None:
    short = upload(memory, np.arange(12, dtype=np.float32))
    with pytest.raises(DeviceFault, match=r"test: out of bounds read of 16 bytes at .*, byte 48 of the 48 bytes"):
        copy(memory, short, memory.alloc(64))


@pytest.mark.parametrize("address", [0, 16, 2**63, 2**64 - 64, 0x7F00_0000_0000, 0x7F00_0000_FFF0, 0x7F00_0001_0000])
def test_addresses_that_are_nowhere(memory: DeviceMemory, source: int, address: int) -> None:
    with pytest.raises(DeviceFault, match=f"test: out of bounds read of 16 bytes at {address:#x}"):
        copy(memory, address, source)
    with pytest.raises(DeviceFault, match=f"test: out of bounds write of 16 bytes at {address:#x}"):
        copy(memory, source, address)


def test_use_after_free(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(64)
    memory.free(out)
    memory.alloc(64)
    with pytest.raises(DeviceFault, match=f"test: use after free write of 16 bytes at {out:#x}"):
        copy(memory, source, out)
    memory.free(source)
    with pytest.raises(DeviceFault, match=f"test: use after free read of 16 bytes at {source:#x}"):
        copy(memory, source, out)


def test_misalignment(memory: DeviceMemory, source: int) -> None:
    out = memory.alloc(80)
    with pytest.raises(DeviceFault, match=f"test: misaligned write of 16 bytes at {out + 4:#x}"):
        copy(memory, source, out + 4)
    with pytest.raises(DeviceFault, match=f"test: misaligned read of 16 bytes at {source + 8:#x}"):
        copy(memory, source + 8, out)


def test_reading_what_was_never_written(memory: DeviceMemory) -> None:
    fresh = memory.alloc(64)
    memory.write(fresh, np.zeros(5, np.float32))
    with pytest.raises(
        DeviceFault, match=f"test: uninitialised read of 16 bytes at {fresh + 20:#x}, byte 20 of the 64"
    ):
        copy(memory, fresh, memory.alloc(64))


def test_threads_that_take_no_part_may_have_any_address(memory: DeviceMemory) -> None:
    out = memory.alloc(8)
    body = """
    mov.u32 %r0, %tid.x;
    setp.lt.u32 %p1, %r0, 2;
    ld.param.u64 %d0, [p0];
    mad.wide.u32 %d0, %r0, 4, %d0;
    @%p1 st.global.u32 [%d0], %r0;
    """
    ptx.launch(ptx.parse(module(body, ("u64",))), memory, (1, 1, 1), pack(out))
    assert memory.read(out, (2,), np.uint32).tolist() == [0, 1]


RACES = {
    "in one store": "st.global.u32 [%d0], %r0;",
    "in two stores": "setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u32 [%d0], 5; @!%p1 st.global.u32 [%d0], 6;",
    "by a byte": "st.global.u32 [%d0], 7; setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u8 [%d0 + 3], 1;",
    "by a load": "setp.eq.u32 %p1, %r0, 1; @%p1 st.global.u32 [%d0], 5; ld.global.u32 %r1, [%d0];",
}


@pytest.mark.parametrize("body", RACES.values(), ids=RACES)
def test_races(memory: DeviceMemory, body: str) -> None:
    out = memory.alloc(4)
    kernel = ptx.parse(module("mov.u32 %r0, %tid.x; ld.param.u64 %d0, [p0];" + body, ("u64",)))
    with pytest.raises(DeviceFault, match=rf"test: race: .* at {out:#x}|test: race: .* at {out + 3:#x}"):
        ptx.launch(kernel, memory, (1, 1, 1), pack(out))


def test_threads_may_agree(memory: DeviceMemory) -> None:
    """Threads of one launch must agree about a value; the next launch starts anew."""
    out = memory.alloc(4)
    for value in (5, 6):
        body = f"ld.param.u64 %d0, [p0]; st.global.u32 [%d0], {value};"
        ptx.launch(ptx.parse(module(body, ("u64",))), memory, (2, 1, 1), pack(out))
        assert memory.read(out, (), np.uint32) == value


def test_a_thread_may_read_and_replace_what_it_wrote(memory: DeviceMemory) -> None:
    body = "st.global.u32 [%d0], 1; ld.global.u32 %r1, [%d0]; add.u32 %r1, %r1, %r0; st.global.u32 [%d0], %r1;"
    assert run(OUT + body, np.uint32, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [15, 17, 0])
def test_parameters_of_another_size(memory: DeviceMemory, size: int) -> None:
    with pytest.raises(DeviceFault, match=f"test: {size} bytes of parameters, it takes 16"):
        ptx.launch(ptx.parse(module("")), memory, (1, 1, 1), bytes(size))


@pytest.mark.parametrize("grid", [(0, 1, 1), (1, -1, 1), (1, 1, 65536)])
def test_grids_that_no_device_takes(memory: DeviceMemory, grid: tuple[int, int, int]) -> None:
    with pytest.raises(DeviceFault, match="test: a grid of"):
        ptx.launch(ptx.parse(module("")), memory, grid, bytes(16))


# Device memory, seen from the host.


def test_allocations_are_aligned_apart_and_never_reused(memory: DeviceMemory) -> None:
    seen: list[int] = []
    for align in (1, 16, 256, 1024):
        address = memory.alloc(10, align)
        assert address % align == 0
        assert not seen or address >= seen[-1] + 10 + GAP
        seen.append(address)
        memory.free(address)
    assert len(set(seen)) == 4


def test_allocations_that_cannot_be(memory: DeviceMemory) -> None:
    for nbytes in (0, -1, 1 << 16):
        with pytest.raises(DeviceFault, match=f"allocation: {nbytes} bytes"):
            memory.alloc(nbytes)


def test_only_live_allocations_are_freed_and_once(memory: DeviceMemory, source: int) -> None:
    with pytest.raises(DeviceFault, match=f"free: no live allocation starts at {source + 4:#x}, byte 4 of the 64"):
        memory.free(source + 4)
    memory.free(source)
    with pytest.raises(DeviceFault, match="free: no live allocation"):
        memory.free(source)
    with pytest.raises(DeviceFault, match="before any allocation"):
        memory.free(0)


def test_copies_are_checked(memory: DeviceMemory, source: int) -> None:
    assert memory.read(source + 4, (2, 2), np.float32).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DeviceFault, match="copy to the host: out of bounds read of 68 bytes"):
        memory.read(source, (17,), np.float32)
    with pytest.raises(DeviceFault, match="engine: out of bounds write of 68 bytes"):
        memory.write(source, np.zeros(17, np.float32), who="engine")
    for address in (0, -8, 2**64):
        with pytest.raises(DeviceFault, match="copy to the device: out of bounds"):
            memory.write(address, np.zeros(1))
    memory.free(source)
    with pytest.raises(DeviceFault, match="copy to the host: use after free"):
        memory.read(source, (1,), np.float32)


def test_arrays_are_copied_as_they_are_indexed(memory: DeviceMemory) -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    address = upload(memory, array)
    assert memory.read(address, (3, 2), np.int16).tolist() == array.tolist()
