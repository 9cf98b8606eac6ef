"""Compile the Triton kernels ahead of time: one PTX for all GPUs from sm_75 on, and cubins made of that very PTX.

No GPU is needed, and no torch. The PTX is version 7.4 for sm_75, which drivers from CUDA 11.4 on read and which the
emulator of the tests executes: what is proven is what ships.
"""

import hashlib
import json
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sdedit.errors import EngineError, install_hint, raise_interrupt
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.bundle.kernels import DIVISIBLE_BY, ELEMENTS_PER_PROGRAM, FOLDER, MANIFEST, check_sides
from sdedit.runtime.jobs.flag import Flag

from .additions import Addition
from .cubin import read_cubin

T = TypeVar("T")

TARGETS = ("sm80", "sm86", "sm89", "sm90", "sm100", "sm120")

ASSEMBLER = "ptxas"
"""The triton package's assembler of CUDA 12.9: it serves every target; drivers older than CUDA 13's load its cubins."""

POINTERS = {
    "p_rows": "*i32",
    "p_counter": "*i32",
    "p_row_count": "*i32",
    "p_image": "*i32",
    "p_seed": "*i64",
}
"""Types of pointer parameters; the others point to float32."""

SIZES = {"*": 8, "i": 4}
"""Bytes of a parameter by the first letter of its type: a pointer, an int32."""


@dataclass(frozen=True)
class Variant:
    """A kernel of step_triton and the values of its compile-time arguments, BLOCK aside."""

    kernel: str
    constants: dict[str, bool]
    one_warp: bool = False


VARIANTS = {
    "advance": Variant("advance_kernel", {}, one_warp=True),
    "begin": Variant("begin_kernel", {}),
    "step": Variant("step_kernel", {"GUIDED": False, "BEGIN_NOISE": False}),
    "step_begin_noise": Variant("step_kernel", {"GUIDED": False, "BEGIN_NOISE": True}),
    "step_guided": Variant("step_kernel", {"GUIDED": True, "BEGIN_NOISE": False}),
    "step_guided_begin_noise": Variant("step_kernel", {"GUIDED": True, "BEGIN_NOISE": True}),
}


def export_kernels(folder: Path, targets: Sequence[str] = TARGETS) -> dict[str, Any]:
    """Write PTX, cubins and their manifest to `folder`, which must exist; returns the manifest.

    Raises EngineError for an unknown target, or if triton or its assembler is missing.
    """
    check_targets(targets)
    try:
        import triton
    except ImportError as error:
        raise_interrupt(error)
        raise EngineError(f"cubins need the package {error.name}: {install_hint('export')}") from None
    kernels = {name: _export_variant(folder, name, variant, targets) for name, variant in VARIANTS.items()}
    manifest = {
        "elements_per_program": ELEMENTS_PER_PROGRAM,
        "divisible_by": DIVISIBLE_BY,
        "kernels": kernels,
        "made_with": {"triton": triton.__version__, ASSEMBLER: _version(ASSEMBLER)},
    }
    text = json.dumps(manifest, sort_keys=True, indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8", newline="\n")
    return manifest


def parse_targets(text: str) -> tuple[str, ...]:
    """ "sm80,sm90", "all", or "ptx" for PTX alone. Raises EngineError for an unknown target."""
    named = {"all": TARGETS, "ptx": ()}
    targets = named[text] if text in named else tuple(part.strip() for part in text.split(","))
    check_targets(targets)
    return targets


def kernels_addition(targets: Sequence[str]) -> Addition:
    """The part kernels/, for these targets besides PTX."""

    def write(bundle: Bundle) -> str:
        check_sides(bundle.state_shape)
        export_kernels(bundle.path / FOLDER, targets)
        return f"{bundle.name}, kernels as {', '.join(('PTX', *targets))}"

    return Addition(FOLDER, write)


def check_targets(targets: Sequence[str]) -> None:
    unknown = [target for target in targets if target not in TARGETS]
    if unknown:
        raise EngineError(f"cubin target {unknown[0]!r} is not one of {', '.join(TARGETS)}")


def _export_variant(folder: Path, name: str, variant: Variant, targets: Sequence[str]) -> dict[str, Any]:
    ptx, parameters = compile_ptx(variant)
    (folder / f"{name}.ptx").write_bytes(ptx)
    cubins = {}
    for target in targets:
        data = assemble(ptx, target)
        described = read_cubin(data)
        if described.parameters != tuple((p["offset"], p["size"]) for p in parameters) or described.shared:
            raise EngineError(f"the {target} cubin of {name} is not what its PTX was compiled for")
        (folder / f"{name}.{target}.cubin").write_bytes(data)
        cubins[target] = {"file": f"{name}.{target}.cubin", "sha256": _sha256(data), "registers": described.registers}
    return {
        "entry": variant.kernel,
        "threads": 32 * _warps(variant),
        "shared": 0,
        "parameters": parameters,
        "ptx": {"file": f"{name}.ptx", "sha256": _sha256(ptx)},
        "cubins": cubins,
    }


def compile_ptx(variant: Variant) -> tuple[bytes, list[dict[str, Any]]]:
    """The variant's PTX, and its parameters with the two scratch pointers that Triton appends; they are always null."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sdedit.kernels import step_triton

    kernel = getattr(step_triton, variant.kernel)
    names = kernel.arg_names
    constants: dict[str, Any] = {**variant.constants, **({"BLOCK": step_triton.BLOCK} if "BLOCK" in names else {})}
    types = {name: "constexpr" if name in constants else _type_of(name) for name in names}
    divisible = [name for name, kind in types.items() if kind[0] == "*" or name == "pixels"]
    attributes = {(names.index(name),): [["tt.divisibility", DIVISIBLE_BY]] for name in divisible}

    def compile_it() -> Any:
        with triton.knobs.compilation.scope():
            triton.knobs.compilation.disable_line_info = True  # no paths of this machine in the files
            return triton.compile(
                ASTSource(kernel, types, constants, attributes),
                target=GPUTarget("cuda", 75, 32),
                options={"num_warps": _warps(variant), "enable_fp_fusion": False, "ptx_version": 74},
            )

    compiled = away_from_interrupts(compile_it)
    metadata = compiled.metadata
    if metadata.shared or metadata.global_scratch_size or metadata.profile_scratch_size or metadata.num_ctas != 1:
        raise EngineError(f"triton {triton.__version__} compiles {variant.kernel} with shared or scratch memory")
    passed = [(name, kind, name in divisible) for name, kind in types.items() if kind != "constexpr"]
    scratch = [("global_scratch", "*i8", False), ("profile_scratch", "*i8", False)]
    return compiled.asm["ptx"].encode(), _with_offsets(passed + scratch)


def away_from_interrupts(function: Callable[[], T]) -> T:
    """Call the function in a thread of its own; return or raise what it does. A Ctrl-C is raised once it has ended.

    Triton calls Python from C++, and a KeyboardInterrupt that is raised in there aborts the process. Python raises it
    in the main thread only.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    ended = Flag()

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            failure.append(error)
        finally:
            ended.set()

    threading.Thread(target=run).start()
    interrupt = None
    while not ended.is_set:
        try:
            ended.wait()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if failure:
        raise failure[0]
    return outcome[0]


def assemble(ptx: bytes, target: str) -> bytes:
    """The cubin of that PTX for that target; nothing is fused."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_bytes(ptx)
        architecture = target.replace("sm", "sm_")
        _run_tool(ASSEMBLER, f"--gpu-name={architecture}", "--fmad=false", "-o", str(out), str(source))
        return out.read_bytes()


def tool(name: str) -> Path:
    """Path of a program of the triton package; raises EngineError if it is missing."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    if not path.is_file():
        raise EngineError(f"assembler {name} is missing from triton {triton.__version__}, expected at {path}")
    return path


def _run_tool(name: str, *arguments: str) -> str:
    result = subprocess.run([tool(name), *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        output = " ".join((result.stderr or result.stdout).split())
        raise EngineError(f"{name} failed: {output[:300]}")
    return result.stdout


def _version(name: str) -> str:
    found = re.search(r"release [\d.]+, V([\d.]+)", _run_tool(name, "--version"))
    return found.group(1) if found else "unknown"


def _warps(variant: Variant) -> int:
    from sdedit.kernels import step_triton

    return 1 if variant.one_warp else step_triton.NUM_WARPS


def _type_of(name: str) -> str:
    return POINTERS.get(name, "*fp32") if name.startswith("p_") else "i32"


def _with_offsets(parameters: list[tuple[str, str, bool]]) -> list[dict[str, Any]]:
    """Parameters with their offsets; each is aligned to its size, as in the CUDA ABI."""
    placed = []
    offset = 0
    for name, kind, divisible in parameters:
        size = SIZES[kind[0]]
        offset = -(-offset // size) * size
        placed.append({"name": name, "type": kind, "offset": offset, "size": size, "divisible": divisible})
        offset += size
    return placed


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
