"""The exported GPU kernels: static proofs on PTX and machine code, and their way into a bundle."""

import dataclasses
import functools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from sdedit.errors import BundleError, EngineError
from sdedit.export import triton_kernels as aot
from sdedit.export.additions import extend_bundle
from sdedit.export.cubin import read_cubin
from sdedit.export.triton_kernels import check_sides, kernels_addition, parse_targets
from sdedit.runtime.bundle import SHIPPED, ImageSpec, read_bundle, read_kernels, write_manifest
from sdedit.runtime.bundle.kernels import ELEMENTS_PER_PROGRAM, MANIFEST, MAX_PIXELS, Kernels, choose_binary
from sdedit.runtime.bundle.records import Problems, read_record

NAMES = tuple(aot.VARIANTS)
IMAGE_READS = {"begin": 3, "step": 5, "step_begin_noise": 5, "step_guided": 6, "step_guided_begin_noise": 6}
"""Loads of 128 bits a thread: x, h, guide, mask, o; begin reads guide, x, mask."""
SQUARE_ROOTS = {"begin": 2, "step": 2, "step_begin_noise": 4, "step_guided": 2, "step_guided_begin_noise": 4}
"""Box-Muller pairs of a thread's four normals."""

ROOTS_PTX = """
.version 7.4
.target sm_75
.address_size 64
.visible .entry roots(.param .u64 out)
.reqntid 128, 1, 1
{{
    .reg .b64 %rd<3>;
    .reg .f32 %f<{registers}>;
    ld.param.u64 %rd1, [out];
    {body}
    ret;
}}
"""


@pytest.fixture(scope="module")
def folder(exported_kernels: Path) -> Path:
    return exported_kernels


@pytest.fixture(scope="module")
def manifest(folder: Path) -> dict:
    return json.loads((folder / MANIFEST).read_text())


@functools.cache
def machine_code(cubin: Path) -> Counter[str]:
    """Count each instruction of a cubin, modifiers included; the file does not change."""
    text = subprocess.run(
        [aot.tool("nvdisasm"), "--no-dataflow", cubin], capture_output=True, text=True, check=True
    ).stdout
    return Counter(re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]+)", text))


def inexact(code: Counter[str]) -> Counter[str]:
    """Instructions that an exact kernel has only inside its square roots."""
    return Counter({op: n for op, n in code.items() if op.startswith(("FFMA", "MUFU")) or ".FTZ" in op})


@pytest.fixture(scope="module")
def roots_alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Counter[str]]:
    """(count, target) -> the instructions in which `count` correctly rounded square roots are inexact."""
    folder = tmp_path_factory.mktemp("roots")
    return functools.cache(lambda count, target: inexact(assemble_roots(count, target, folder)))


def assemble_roots(count: int, target: str, folder: Path) -> Counter[str]:
    body = ""
    for i in range(count):
        body += f"ld.global.f32 %f{2 * i}, [%rd1+{8 * i}];\nsqrt.rn.f32 %f{2 * i + 1}, %f{2 * i};\n"
        body += f"st.global.f32 [%rd1+{8 * i + 4}], %f{2 * i + 1};\n"
    cubin = folder / f"roots{count}.{target}.cubin"
    cubin.write_bytes(aot.assemble(ROOTS_PTX.format(registers=2 * count + 1, body=body).encode(), target))
    return machine_code(cubin)


@pytest.mark.parametrize("name", NAMES)
def test_ptx_rounds_every_operation_and_fuses_none(folder: Path, name: str) -> None:
    ptx = (folder / f"{name}.ptx").read_text()
    assert ".version 7.4" in ptx
    assert ".target sm_75" in ptx
    operations = re.findall(r"\b((?:add|sub|mul|fma|mad|sqrt|div|rcp|rsqrt|ex2|lg2|sin|cos)\.[\w.]*f32)\b", ptx)
    assert set(operations) <= {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "sqrt.rn.f32"}
    assert not re.search(r"\.(ftz|approx|sat)\b", ptx)
    assert len(operations) > 50 or name == "advance"
    assert operations.count("sqrt.rn.f32") == SQUARE_ROOTS.get(name, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_machine_code_is_exact_outside_the_square_roots(
    folder: Path, roots_alone: Callable[[int, str], Counter[str]], name: str, target: str
) -> None:
    """The kernel has as many fused, approximate and flushing instructions as its square roots have by themselves."""
    expected = roots_alone(SQUARE_ROOTS[name], target) if name in SQUARE_ROOTS else Counter()
    assert inexact(machine_code(folder / f"{name}.{target}.cubin")) == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_cubins_say_what_the_manifest_says(folder: Path, manifest: dict, name: str, target: str) -> None:
    entry = manifest["kernels"][name]
    data = (folder / entry["cubins"][target]["file"]).read_bytes()
    cubin = read_cubin(data)
    last = entry["parameters"][-1]
    assert cubin.kernel == entry["entry"]
    assert cubin.parameters == tuple((p["offset"], p["size"]) for p in entry["parameters"])
    assert cubin.parameter_bytes == last["offset"] + last["size"]
    assert cubin.threads == entry["threads"]
    assert cubin.registers == entry["cubins"][target]["registers"]
    assert cubin.registers <= 64
    assert cubin.shared == entry["shared"] == 0
    assert cubin.frame == 0
    assert len(data) <= 20 * 1024


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", aot.TARGETS)
def test_memory_is_accessed_128_bits_at_a_time_and_nothing_is_spilled(folder: Path, name: str, target: str) -> None:
    code = machine_code(folder / f"{name}.{target}.cubin")
    assert not [op for op in code if op.startswith(("LDL", "STL", "LDS", "STS", "BAR"))]
    if name != "advance":
        assert sum(n for op, n in code.items() if op.startswith("LDG") and ".128" in op) == IMAGE_READS[name]
        stores = {op: n for op, n in code.items() if op.startswith("STG")}
        assert sum(stores.values()) == 2
        assert all(".128" in op for op in stores)


def test_export_is_reproducible(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled anew, not taken from triton's cache."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    again = tmp_path / "again"
    again.mkdir()
    aot.export_kernels(again)
    files = sorted(file.name for file in folder.iterdir())
    assert files == sorted(file.name for file in again.iterdir())
    for name in files:
        assert (folder / name).read_bytes() == (again / name).read_bytes(), name


def test_files_hold_no_path_of_the_machine_that_made_them(folder: Path) -> None:
    source = str(Path(aot.__file__).parent).encode()
    for file in folder.iterdir():
        data = file.read_bytes()
        assert source not in data, file.name
        assert b"step_triton" not in data, file.name


def test_a_binary_is_chosen_by_the_devices_capability(manifest: dict) -> None:
    kernels = read_record(Kernels, manifest, "", Problems())
    assert kernels is not None
    files = {
        (8, 0): "step.sm80.cubin",
        (8, 7): "step.sm86.cubin",  # same major version, at most its minor one
        (8, 9): "step.sm89.cubin",
        (9, 0): "step.sm90.cubin",
        (10, 3): "step.sm100.cubin",
        (12, 1): "step.sm120.cubin",
        (7, 5): "step.ptx",
        (11, 0): "step.ptx",
    }
    for capability, file in files.items():
        assert choose_binary(kernels, "step", capability).file == file
    with pytest.raises(EngineError, match="serve GPUs from sm75 on; this one is sm70"):
        choose_binary(kernels, "step", (7, 0))
    with pytest.raises(EngineError, match="no GPU kernel 'blur', only advance, begin, step"):
        choose_binary(kernels, "blur", (8, 0))


def test_a_bundle_without_kernels_says_how_to_add_them() -> None:
    with pytest.raises(EngineError, match=r"has no GPU kernels: sdedit extend .* --cubins all"):
        read_kernels(read_bundle(SHIPPED))


def test_kernels_are_added_to_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    before = read_bundle(SHIPPED)
    bundle = extend_bundle(SHIPPED, out, [kernels_addition(("sm90",))])
    expected = {f"kernels/{name}.{kind}" for name in NAMES for kind in ("ptx", "sm90.cubin")} | {"kernels/kernels.json"}
    assert set(bundle.manifest.files) - set(before.manifest.files) == expected
    same = {"files": None, "revision": None}
    assert {**bundle.manifest.to_json(), **same} == {**before.manifest.to_json(), **same}
    assert choose_binary(read_kernels(bundle), "begin", (9, 0)).file == "begin.sm90.cubin"
    again = extend_bundle(out, out, [kernels_addition(("sm80",))])  # in place of the ones it had
    assert not [name for name in again.manifest.files if "sm90" in name]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("sm70",), "cubin target 'sm70' is not one of sm80, sm86"),
        (("sm90", ""), "cubin target '' is not one of"),
    ],
)
def test_unknown_targets_are_refused_and_nothing_is_written(
    targets: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=message):
        extend_bundle(SHIPPED, tmp_path / "out", [kernels_addition(targets)])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_assembler_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(aot, "ASSEMBLER", "ptxas-of-nowhere")
    with pytest.raises(EngineError, match=r"assembler ptxas-of-nowhere is missing from triton 3\.9\.0"):
        extend_bundle(SHIPPED, tmp_path / "out", [kernels_addition(("sm80",))])
    assert list(tmp_path.iterdir()) == []


def test_images_that_128_bit_accesses_do_not_fit_are_refused() -> None:
    with pytest.raises(BundleError, match="divisible by 16 and at most 33553920, the bundle has 6x5"):
        check_sides((3, 6, 5))


def test_kernels_that_the_bundle_does_not_list_are_refused(tmp_path: Path) -> None:
    bundle = extend_bundle(SHIPPED, tmp_path / "bundle", [kernels_addition(())])
    manifest = bundle.path / "kernels" / MANIFEST
    for text, message in (
        (
            manifest.read_text().replace('"begin.ptx"', '"../begin.ptx"'),
            r"names 'kernels/../begin.ptx', which bundle.json",
        ),
        ("[]", "kernels/kernels.json is damaged"),
    ):
        manifest.write_text(text)
        write_manifest(bundle.path, bundle.manifest)
        with pytest.raises(BundleError, match=message):
            read_kernels(read_bundle(bundle.path))


def test_targets_are_given_by_name_or_all() -> None:
    assert parse_targets("all") == aot.TARGETS
    assert parse_targets("ptx") == ()
    assert parse_targets("sm80, sm90") == ("sm80", "sm90")


def test_the_runtime_knows_what_a_program_handles(folder: Path) -> None:
    """It cannot import triton, so the number stands there once more."""
    from sdedit.kernels import step_triton

    assert step_triton.BLOCK == ELEMENTS_PER_PROGRAM == 4 * 32 * step_triton.NUM_WARPS
    assert MAX_PIXELS == 65535 * step_triton.BLOCK  # the largest grid in y
    assert json.loads((folder / MANIFEST).read_text())["elements_per_program"] == step_triton.BLOCK


@pytest.mark.parametrize(("key", "value"), [("elements_per_program", 1024), ("divisible_by", 4)])
def test_kernels_for_another_grid_are_refused(tmp_path: Path, key: str, value: int) -> None:
    """They would leave pixels out, or read beyond the last one, without an error."""
    bundle = extend_bundle(SHIPPED, tmp_path / "bundle", [kernels_addition(())])
    text = json.loads((bundle.path / "kernels" / MANIFEST).read_text())
    (bundle.path / "kernels" / MANIFEST).write_text(json.dumps({**text, key: value}))
    write_manifest(bundle.path, bundle.manifest)
    with pytest.raises(BundleError, match=f"kernels.json is damaged: {key} is {value}, this version launches"):
        read_kernels(read_bundle(bundle.path))


@pytest.mark.parametrize(("height", "width"), [(6, 5), (65536, 8192)])
def test_kernels_in_a_bundle_of_sides_that_they_do_not_take(tmp_path: Path, height: int, width: int) -> None:
    bundle = extend_bundle(SHIPPED, tmp_path / "bundle", [kernels_addition(())])
    image = ImageSpec.fixed(bundle.image.channels, height, width)
    bundle = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, image=image))
    with pytest.raises(BundleError, match=f"divisible by 16 and at most 33553920, the bundle has {height}x{width}"):
        read_kernels(bundle)


@pytest.mark.parametrize("target", ["sm80", "sm120"])
def test_shared_memory_would_be_seen(target: str, tmp_path: Path) -> None:
    ptx = ROOTS_PTX.format(registers=2, body=".shared .b8 s[8192];\nst.shared.f32 [s], 0f00000000;")
    assert read_cubin(aot.assemble(ptx.encode(), target)).shared >= 8192  # newer GPUs reserve some more


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(60), b"not a cubin" * 100])
def test_what_is_no_cubin_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a cubin"):
        read_cubin(data)
