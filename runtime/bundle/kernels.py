"""A bundle's exported GPU kernels, as the target reads them: their manifest, and which file fits a device."""

from typing import Any

from sdedit.errors import EngineError

FOLDER = "kernels"
"""Of a bundle."""

MANIFEST = "kernels.json"

PTX_CAPABILITY = (7, 5)
"""The oldest GPU that the PTX serves."""


def choose_binary(manifest: dict[str, Any], kernel: str, capability: tuple[int, int]) -> dict[str, str]:
    """The file and sha256 of `kernel` for a GPU: a cubin of its major version and at most its minor one, else the PTX.

    Raises EngineError where the bundle has neither for it.
    """
    entry = manifest["kernels"].get(kernel)
    if entry is None:
        raise EngineError(f"the bundle has no GPU kernel {kernel!r}, only {', '.join(manifest['kernels'])}")
    major, minor = capability
    fitting = [m for m in range(minor, -1, -1) if f"sm{major}{m}" in entry["cubins"]]
    if fitting:
        return entry["cubins"][f"sm{major}{fitting[0]}"]
    if capability < PTX_CAPABILITY:
        raise EngineError(f"the bundle's kernels serve GPUs from sm75 on; this one is sm{major}{minor}")
    return entry["ptx"]
