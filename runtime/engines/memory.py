"""Memory that a network needs, told before it is loaded: an allocation that fails in an engine may end the process."""

from sdedit.errors import EngineError

from ..bundle import Bundle
from ..machine import available_memory


def copies(weights: str) -> int:
    """Sizes of a network's file that an engine holds while it loads: the bytes, and the weights in its own layout.

    weights: as the manifest has it; those in half are loaded as float32.
    """
    return 3 if weights == "half" else 2


def check_loading(bundle: Bundle, name: str) -> None:
    """Raise EngineError if this process has too little memory to load the network in file `name` of the bundle.

    The bound is low: running takes more. Files beside the network that begin with its name hold its weights.
    """
    files = bundle.manifest.files
    nbytes = sum(entry.bytes for file, entry in files.items() if file.startswith(name))
    needed = copies(bundle.manifest.parity.weights) * nbytes
    free = available_memory()
    if free is not None and needed > free:
        raise EngineError(
            f"loading {name} of {bundle.name} needs at least {needed / 1e9:,.1f} GB of memory, "
            f"{free / 1e9:,.1f} GB are available"
        )
