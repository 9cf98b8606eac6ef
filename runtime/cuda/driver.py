"""Is there an NVIDIA driver? The question avoids cuda.core, whose calls hang or crash without one."""

import ctypes
import importlib.metadata
import sys

from sdedit.errors import EngineError, install_hint

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

PACKAGES = ("cuda-core", "cuda-bindings")
"""Packages that the device needs; it needs no CUDA toolkit and no torch."""


def probe(index: int = 0) -> int:
    """The newest CUDA version that the driver runs, as 1000 major + 10 minor.

    Raises EngineError if there is no driver, if it is too old for the installed packages, or if it finds no GPU of that
    number.
    """
    major = required_major()
    version, count = ask_driver()
    if index >= count:
        raise EngineError(f"there is no GPU {index}: the NVIDIA driver finds {count}, numbered from 0")
    if version < 1000 * major:
        found = f"{version // 1000}.{version % 1000 // 10}"
        raise EngineError(
            f"the NVIDIA driver runs CUDA {found}, the installed cuda-bindings need {major}.0: "
            f"update the driver or pip install 'cuda-bindings<{major}'"
        )
    return version


def ask_driver() -> tuple[int, int]:
    """The driver's CUDA version, as `probe` gives it, and its number of GPUs. Raises EngineError if there is none."""
    try:
        driver = ctypes.CDLL(LIBRARY)
    except OSError:
        raise EngineError(f"there is no NVIDIA driver here, {LIBRARY} cannot be loaded: use device cpu") from None
    version, count = ctypes.c_int(0), ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(version))
    status = status or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise EngineError(f"the NVIDIA driver finds no GPU, CUDA error {status}: use device cpu")
    return version.value, count.value


def required_major() -> int:
    """The CUDA version that the installed packages are made for; raises EngineError if one is missing."""
    for name in PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise EngineError(f"device cuda needs the package {name}: {install_hint('cuda')}") from None
    return int(version.partition(".")[0])
