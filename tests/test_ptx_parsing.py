"""The PTX emulator reads a module, and refuses by name everything that it does not know exactly."""

import ptx
import pytest
from ptx import UnsupportedPtx
from ptx_snippets import HEADER, module


def test_kernels_describe_themselves() -> None:
    text = module("", ("u64", "u8", "f32", "u16", "u64"), "16, 8").replace(
        ".param .u64 p0", ".param .u64 .ptr .global .align 1 p0"
    )
    kernel = ptx.parse(text)
    assert (kernel.name, kernel.version, kernel.target) == ("test", "7.4", "sm_75")
    assert (kernel.block, kernel.threads) == ((16, 8, 1), 128)
    assert kernel.params == (("p0", 0, 8), ("p1", 8, 1), ("p2", 12, 4), ("p3", 16, 2), ("p4", 24, 8))
    assert kernel.param_bytes == 32
    assert kernel.program == ()


def test_the_entry_is_chosen_by_name() -> None:
    two = module("") + module("mov.u32 %r1, %r1;").removeprefix(HEADER).replace("test", "other")
    assert ptx.parse(two, "other").name == "other"
    for name in (None, "third"):
        with pytest.raises(UnsupportedPtx, match=r"\['other', 'test'\]"):
            ptx.parse(two, name)


def test_comments_line_information_and_labels_are_skipped() -> None:
    body = """
    // a comment; with a semicolon
    .loc 1 2 3, function_name $L__info, inlined_at 1 2 3
    $L__tmp1:
    mov.u32 %r1, /* } */ 1;
    """
    assert [instruction.text for instruction in ptx.parse(module(body)).program] == ["mov.u32 %r1, 1"]


def test_maxntid_stands_in_for_reqntid() -> None:
    assert ptx.parse(module("").replace(".reqntid 4", ".maxntid 4, 1, 1 .minnctapersm 2")).threads == 4


REFUSED = [
    "@%p1 bra $L;",
    "bra.uni $L;",
    "call f;",
    "@%p1 ret;",
    "exit;",
    "bar.sync 0;",
    "membar.gl;",
    "ld.shared.b32 %r1, [%r2];",
    "ld.b32 %r1, [%d1];",
    "ld.volatile.global.b32 %r1, [%d1];",
    "ld.global.L2::cache_hint.b32 %r1, [%d1], %d2;",
    "ld.global.b128 %r1, [%d1];",
    "ld.global.v8.b32 {%r1, %r2, %r3, %r4, %r5, %r6, %r7, %r8}, [%d1];",
    "ld.global.v4.b64 {%d1, %d2, %d3, %d4}, [%d1];",
    "ld.global.v2.b32 {%r1}, [%d1];",
    "ld.global.b32 %r1, [%r1];",
    "ld.global.b32 %r1, [p0];",
    "ld.param.b64 %d1, [p0 + 8];",
    "ld.param.b64 %d1, [unknown];",
    "st.global.wb.ca.b32 [%d1], %r1;",
    "st.param.b64 [p0], %d1;",
    "atom.global.add.u32 %r1, [%d1], 1;",
    "shfl.sync.bfly.b32 %r1, %r1, 1, 31, -1;",
    "sin.approx.f32 %r1, %r1;",
    "sqrt.approx.f32 %r1, %r1;",
    "div.full.f32 %r1, %r1, %r1;",
    "add.f32 %r1, %r1, %r1;",
    "sub.f32 %r1, %r1, %r1;",
    "mul.f32 %r1, %r1, %r1;",
    "fma.f32 %r1, %r1, %r1, %r1;",
    "mad.f32 %r1, %r1, %r1, %r1;",
    "add.rz.f32 %r1, %r1, %r1;",
    "mul.rn.ftz.f32 %r1, %r1, %r1;",
    "add.rn.sat.f32 %r1, %r1, %r1;",
    "add.sat.s32 %r1, %r1, %r1;",
    "add.cc.u32 %r1, %r1, %r1;",
    "setp.lt.ftz.f32 %p1, %r1, %r1;",
    "setp.lt.s32 %p1|%p2, %r1, %r1;",
    "setp.lt.and.s32 %p1, %r1, %r1, %p2;",
    "cvt.rzi.s32.f32 %r1, %r1;",
    "cvt.f32.s32 %r1, %r1;",
    "cvt.rn.bf16.f32 %h1, %r1;",
    "add.u32 %r1, %r1;",
    "add.u32 %r1, %r1, %r2, %r3;",
    "add.u32 %d1, %r1, %r2;",
    "add.u32 %r1, %r1, %h1;",
    "add.u32 %r1, %r1, %undeclared;",
    "add.u32 %r1, %r1, symbol;",
    "add.u32 %r1, %r1, 1.5;",
    "add.rn.f32 %r1, %r1, 1;",
    "add.rn.f32 %r1, %r1, 0d3FF0000000000000;",
    "add.u32 %r1, %r1, 017;",
    "and.pred %p1, %p1, %r1;",
    "mov.u32 %r1, %p1;",
    "mov.b16 %h1, {%h1, %h2, %h3};",
    "mov.u32 %r1, %clock;",
    "@%r1 mov.u32 %r1, 0;",
    ".shared .b32 s;",
    ".reg .f16x2 %z;",
    "{ .reg .b32 %z; }",
]


@pytest.mark.parametrize("instruction", REFUSED)
def test_what_is_not_known_exactly_is_refused_by_name(instruction: str) -> None:
    with pytest.raises(UnsupportedPtx) as refusal:
        ptx.parse(module(instruction))
    assert instruction.split(";")[0].strip("{ ") in str(refusal.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ret;", ""),
        ("ret;", "ret; mov.u32 %r1, 0;"),
        (".reqntid 4", ""),
        (".reqntid 4", ".reqntid 4 .reqnctapercluster 2"),
        (".reqntid 4", ".reqntid 4 .blocksareclusters"),
        (".address_size 64", ".address_size 32"),
        (".version 7.4", ""),
        (".param .u64 p0", ".param .texref p0"),
        ("}", ""),
    ],
)
def test_modules_that_are_not_understood_are_refused(old: str, new: str) -> None:
    text = module("mov.u32 %r1, 0;")
    with pytest.raises(UnsupportedPtx):
        ptx.parse(text.replace(old, new))
