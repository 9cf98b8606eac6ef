"""Count what the GPU kernels and unfused torch cost: `python -m sdedit.benchmarks.kernels`.

Nothing here runs on a GPU. Instructions, registers and bytes are counted in the machine code. Times are lower bounds
that follow from the rates in datasheets.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.kernels")
    raise SystemExit

import math
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sdedit.export import triton_kernels as aot
from sdedit.runtime.plan import SAMPLERS, make_plan
from sdedit.runtime.schedule import Schedule
from sdedit_ref import sde

SHAPE = (3, 256, 256)
ELEMENTS_A_THREAD = 4
FREE = ("detach", "view", "_unsafe_view", "unsqueeze", "expand")
"""Operations that launch no kernel and move no data."""


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU's datasheet.

    bandwidth: bytes per second. issue: instructions per second of all lanes (processors x 128 x boost clock).
    """

    name: str
    target: str
    bandwidth: float
    issue: float


GPUS = (
    Gpu("A100 SXM 80 GB", "sm80", 2.039e12, 108 * 128 * 1.41e9),
    Gpu("L4", "sm89", 0.300e12, 58 * 128 * 2.04e9),
    Gpu("RTX 4090", "sm89", 1.008e12, 128 * 128 * 2.52e9),
    Gpu("H100 SXM", "sm90", 3.352e12, 132 * 128 * 1.98e9),
    Gpu("RTX 5090", "sm120", 1.792e12, 170 * 128 * 2.407e9),
)


def main() -> None:
    """Print the tables of docs/kernels.md."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        manifest = aot.export_kernels(Path(folder))
        print(f"export of all kernels and targets: {time.perf_counter() - start:.1f} s, {manifest['made_with']}\n")
        counts = {
            (name, target): count_instructions(Path(folder, entry["cubins"][target]["file"]))
            for name, entry in manifest["kernels"].items()
            for target in aot.TARGETS
        }
        print_machine_code(manifest, counts)
    print_bounds(counts)
    print_unfused()


def count_instructions(cubin: Path) -> int:
    """Instructions that a thread may execute, with the square root's slow path and without padding."""
    text = subprocess.run([aot.tool("nvdisasm"), cubin], capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"/\*[0-9a-f]{4}\*/\s+(?:@!?U?P\w+ )?(?!NOP)[A-Z][A-Z0-9_.]+", text))


def print_machine_code(manifest: dict[str, Any], counts: dict[tuple[str, str], int]) -> None:
    print("| kernel | " + " | ".join(aot.TARGETS) + " |\n|---|" + "---|" * len(aot.TARGETS))
    for name, entry in manifest["kernels"].items():
        cells = [f"{counts[name, target]}, {entry['cubins'][target]['registers']}" for target in aot.TARGETS]
        print(f"| {name} | " + " | ".join(cells) + " |")


def bytes_an_element(channels: int, guided: bool) -> float:
    """Bytes that contract 2 makes unavoidable: read x, h, guide, o, o_uncond; the mask once a pixel; write x, h."""
    return 4 * (4 + guided + 1 / channels + 2)


def print_bounds(counts: dict[tuple[str, str], int]) -> None:
    elements = math.prod(SHAPE)
    size = "x".join(map(str, SHAPE))
    print(f"\n| one step, {size} | bytes, us | instructions, us | with begin noise, us |\n" + "|---" * 4 + "|")
    for gpu in GPUS:
        memory = elements * bytes_an_element(SHAPE[0], False) / gpu.bandwidth * 1e6
        issue, both = (
            elements * counts[name, gpu.target] / ELEMENTS_A_THREAD / gpu.issue * 1e6
            for name in ("step", "step_begin_noise")
        )
        print(f"| {gpu.name} | {memory:.2f} | {issue:.2f} | {both:.2f} |")


@dataclass
class Counter(TorchDispatchMode):
    """Counts the operations that a GPU would launch, and the bytes of their inputs and outputs."""

    launches: int = 0
    moved: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name not in FREE:
            self.launches += 1
            read = () if name == "randn_like" else args  # it reads the shape alone
            tensors = [value for value in (*read, out) if isinstance(value, Tensor)]
            self.moved += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def unfused_step(
    x: Tensor, h: Tensor, g: Tensor, m: Tensor, o: Tensor, row: Any, z_begin: Tensor
) -> tuple[Tensor, Tensor]:
    """A step in plain torch, without terms whose coefficient is zero and with one noise tensor."""
    x0 = (row["a_x"] * x + row["a_o"] * o).clamp(-row["clip"], row["clip"])
    edit = row["c_0"] * x0
    if row["c_x"]:
        edit = edit + row["c_x"] * x
    if row["c_h"]:
        edit = edit + row["c_h"] * torch.where(m >= row["h_threshold"], h, x0)
    z = torch.randn_like(x) if row["c_z"] or (row["k_z"] and not row["keep_noise"]) else x
    if row["c_z"]:
        edit = edit + row["c_z"] * z
    keep = row["k_g"] * g
    if row["k_z"]:
        keep = keep + row["k_z"] * (z_begin if row["keep_noise"] else z)
    return torch.where(m >= row["threshold"], edit, keep), x0


def count_unfused(sampler: str, keep: str) -> Counter:
    """Count one step in the middle of an edit with a mask: the second row of a plan."""
    plan = make_plan(Schedule(sde.linear()), "eps", t0=0.5, steps=10, sampler=sampler, keep=keep)
    row = {name: plan.rows[1][name].item() for name in plan.rows.dtype.names or ()}
    x, h, guide, o, z_begin = torch.zeros(5, 1, *SHAPE)
    mask = torch.zeros(1, 1, *SHAPE[1:])
    with Counter() as counter:
        unfused_step(x, h, guide, mask, o, row, z_begin)
    return counter


def print_unfused() -> None:
    fused = math.prod(SHAPE) * bytes_an_element(SHAPE[0], False)
    print("\n| sampler, keep rule | unfused: launches | MB moved | fused: launches | MB moved | ratio of bytes |")
    print("|---" * 6 + "|")
    for sampler in SAMPLERS:
        for keep in ("fresh", "fixed"):
            counter = count_unfused(sampler, keep)
            unfused = f"{counter.launches} | {counter.moved / 1e6:.1f}"
            print(f"| {sampler}, {keep} | {unfused} | 1 | {fused / 1e6:.2f} | {counter.moved / fused:.1f} |")
