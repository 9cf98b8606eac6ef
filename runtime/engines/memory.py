"""Memory that a network needs, told before it is loaded: an allocation that fails in an engine may end the process."""

from sdedit.errors import EngineError

from ..bundle import NETWORK, Bundle
from ..machine import available_memory

KEPT_SHAPES = 5
KEPT_BYTES = 2e9
"""At most so many shapes, whose weights take so much together; one in any case."""


def copies(weights: str) -> int:
    """Sizes of a network's file that an engine holds while it loads: the bytes, and the weights in its own layout.

    weights: as the manifest has it; those in half are loaded as float32.
    """
    return 3 if weights == "half" else 2


def file_bytes(bundle: Bundle, name: str) -> int:
    """Size of the network in file `name`. Files beside it that begin with its name hold its weights."""
    return sum(entry.bytes for file, entry in bundle.manifest.files.items() if file.startswith(name))


def is_apart(bundle: Bundle, name: str, engine: str) -> bool:
    """Whether the engine takes the weights of the network in file `name` as inputs (Bundle.read_network_apart).

    onnxruntime does for a latent network whose weights lie in another file, as export writes large ones: an evaluation
    then takes about 5 % longer, and the weights are in memory once.
    """
    outside = any(file.startswith(name) and file != name for file in bundle.manifest.files)
    return engine == "onnxruntime" and name == NETWORK and bundle.manifest.latent is not None and outside


def weight_bytes(bundle: Bundle, name: str) -> int:
    """Bytes of the weights of the network in file `name` in float32, nearly."""
    return file_bytes(bundle, name) * (2 if bundle.manifest.parity.weights == "half" else 1)


def kept_shapes(bundle: Bundle) -> int:
    """Shapes of states that an engine with weights of its own for each keeps them for, the native one included."""
    return max(1, min(KEPT_SHAPES, int(KEPT_BYTES // weight_bytes(bundle, NETWORK))))


def loading_bytes(bundle: Bundle, name: str, engine: str) -> int:
    """Bytes that the engine needs at least to load the network in file `name`."""
    if is_apart(bundle, name, engine):
        return weight_bytes(bundle, name)
    return copies(bundle.manifest.parity.weights) * file_bytes(bundle, name)


def check_loading(bundle: Bundle, name: str, engine: str) -> None:
    """Raise EngineError if this process has too little memory for the engine to load the network in file `name`.

    The bound is low: running takes more.
    """
    needed = loading_bytes(bundle, name, engine)
    free = available_memory()
    if free is not None and needed > free:
        raise EngineError(
            f"loading {name} of {bundle.name} needs at least {needed / 1e9:,.1f} GB of memory, "
            f"{free / 1e9:,.1f} GB are available"
        )
