"""The part kernels/: GPU kernels compiled ahead of time, as PTX and cubins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdedit.errors import BundleError, EngineError

from .parts import extend_command, read_part, require_listed
from .reading import Bundle
from .records import Problems, read_record

FOLDER = "kernels"
MANIFEST = "kernels.json"
NAME = f"{FOLDER}/{MANIFEST}"

PTX_CAPABILITY = (7, 5)
"""The oldest GPU that the PTX serves."""

ELEMENTS_PER_PROGRAM = 512
"""Elements of a channel that one program of begin and step handles: 128 threads, 4 elements each (step_triton)."""

DIVISIBLE_BY = 16
"""Pointers (in bytes) and `pixels` are multiples of it, for accesses of 128 bits."""

MAX_PIXELS = 65535 * ELEMENTS_PER_PROGRAM
"""Most pixels of a channel: largest grid in y times elements per program."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel. offset, size: in bytes. divisible: whether its value must be a multiple."""

    name: str
    type: str
    offset: int
    size: int
    divisible: bool


@dataclass(frozen=True)
class Ptx:
    """A file with a kernel's PTX, and its hash."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Cubin:
    """A file with a kernel's cubin for one architecture, its hash, and the registers that a thread needs."""

    file: str
    sha256: str
    registers: int


@dataclass(frozen=True)
class Kernel:
    """A kernel. entry: its name in the files. threads: of a block. shared: bytes of shared memory."""

    entry: str
    threads: int
    shared: int
    parameters: tuple[Parameter, ...]
    ptx: Ptx
    cubins: Mapping[str, Cubin]


@dataclass(frozen=True)
class Kernels:
    """All kernels by name. elements_per_program: elements of a channel that one program of begin and step handles.

    divisible_by: pointers (in bytes) and sizes marked divisible are multiples of it.
    """

    elements_per_program: int
    divisible_by: int
    kernels: Mapping[str, Kernel]
    made_with: Mapping[str, str]

    @staticmethod
    def check(where: str, fields: Mapping[str, Any], problems: Problems) -> None:
        """Other numbers would launch grids that leave pixels out, or that the kernels were not compiled for."""
        del where
        for name, known in (("elements_per_program", ELEMENTS_PER_PROGRAM), ("divisible_by", DIVISIBLE_BY)):
            found = fields.get(name, known)
            problems.require(found == known, f"{name} is {found}, this version launches kernels for {known}")


def read_kernels(bundle: Bundle) -> Kernels:
    """The bundle's GPU kernels; the bundle lists all files that they name.

    Raises EngineError if there are none, BundleError if their manifest is damaged or they do not take its images.
    """
    kernels = read_part(bundle, NAME, lambda value, problems: read_record(Kernels, value, "", problems))
    if kernels is None:
        raise EngineError(f"bundle {bundle.path} has no GPU kernels: {extend_command(bundle, '--cubins all')}")
    files = [file for k in kernels.kernels.values() for file in (k.ptx.file, *(c.file for c in k.cubins.values()))]
    require_listed(bundle, NAME, [f"{FOLDER}/{file}" for file in files])
    check_sides(bundle.state_shape)
    return kernels


def check_sides(shape: tuple[int, int, int]) -> None:
    """Raise BundleError unless the kernels take states of `shape` = (C, H, W)."""
    _, height, width = shape
    if height * width % DIVISIBLE_BY or height * width > MAX_PIXELS:
        raise BundleError(
            f"GPU kernels need height x width divisible by {DIVISIBLE_BY} and at most {MAX_PIXELS}, "
            f"the bundle has {height}x{width}"
        )


def choose_binary(kernels: Kernels, name: str, capability: tuple[int, int]) -> Ptx | Cubin:
    """The file of a kernel for a GPU: a cubin of its major version and at most its minor one, else the PTX.

    Raises EngineError if the bundle has neither for it.
    """
    kernel = kernels.kernels.get(name)
    if kernel is None:
        raise EngineError(f"the bundle has no GPU kernel {name!r}, only {', '.join(kernels.kernels)}")
    major, minor = capability
    fitting = [m for m in range(minor, -1, -1) if f"sm{major}{m}" in kernel.cubins]
    if fitting:
        return kernel.cubins[f"sm{major}{fitting[0]}"]
    if capability < PTX_CAPABILITY:
        raise EngineError(f"the bundle's kernels serve GPUs from sm75 on; this one is sm{major}{minor}")
    return kernel.ptx
