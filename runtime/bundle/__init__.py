"""A bundle: the folder that export writes and every target reads. Data only; all of it is verified before use."""

from .manifest import MANIFEST, MODEL_CARD, NETWORK, REFERENCE, REVISION, SCHEDULE, TensorSpec, network_inputs
from .reading import SHIPPED, Bundle, file_sha256, read_bundle, read_kernels
from .writing import amended, staged, write_manifest

__all__ = [
    "MANIFEST",
    "MODEL_CARD",
    "NETWORK",
    "REFERENCE",
    "REVISION",
    "SCHEDULE",
    "SHIPPED",
    "Bundle",
    "TensorSpec",
    "amended",
    "file_sha256",
    "network_inputs",
    "read_bundle",
    "read_kernels",
    "staged",
    "write_manifest",
]
