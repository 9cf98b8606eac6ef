"""The bundle's kernels, loaded on a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass

from sdedit.errors import EngineError

from ..bundle import Bundle, read_kernels
from ..bundle.kernels import FOLDER, choose_binary
from ..bundle.parts import extend_command
from ..cuda import Gpu, GpuKernel

NAMES = ("begin", "step", "step_begin_noise", "advance")
GUIDED_NAMES = ("begin", "step_guided", "step_guided_begin_noise", "advance")
"""Kernels of networks without and with an unconditional pass."""


@dataclass(frozen=True)
class LoadedKernels:
    """Kernels by name; elements of a channel that one program computes; kind: such as sm89.cubin, for the recipe."""

    functions: Mapping[str, GpuKernel]
    elements_per_program: int
    kind: str


def load_kernels(gpu: Gpu, bundle: Bundle, guided: bool) -> LoadedKernels:
    """The bundle's kernels for that GPU. Raises EngineError if it has none for it."""
    stored = read_kernels(bundle)
    kernels = {}
    for name in GUIDED_NAMES if guided else NAMES:
        if name not in stored.kernels:  # a bundle of a version before guidance ran on GPUs
            cure = extend_command(bundle, "--cubins all")
            raise EngineError(f"bundle {bundle.path} has no GPU kernel {name!r}, which guidance needs: {cure}")
        file = choose_binary(stored, name, gpu.capability).file
        data = bundle.read(f"{FOLDER}/{file}")
        kernels[name] = gpu.load(name, stored.kernels[name], file, data, stored.divisible_by)
    kind = kernels["advance"].file.split(".", 1)[1]
    return LoadedKernels(kernels, stored.elements_per_program, kind)
