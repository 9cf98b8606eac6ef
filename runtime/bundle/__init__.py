"""A bundle: the folder that export writes and every target reads. Data only; every file is verified before use."""

from .files import MANIFEST, file_sha256
from .installed import SHIPPED, is_installed, refuse_installed
from .kernels import read_kernels
from .manifest import (
    MODEL_CARD,
    NETWORK,
    REFERENCE,
    REVISION,
    SCHEDULE,
    ImageSpec,
    Manifest,
    TensorSpec,
    network_inputs,
)
from .reading import Bundle, Network, read_bundle
from .staging import staged
from .writing import link_files, write_manifest

__all__ = [
    "MANIFEST",
    "MODEL_CARD",
    "NETWORK",
    "REFERENCE",
    "REVISION",
    "SCHEDULE",
    "SHIPPED",
    "Bundle",
    "ImageSpec",
    "Manifest",
    "Network",
    "TensorSpec",
    "file_sha256",
    "is_installed",
    "link_files",
    "network_inputs",
    "read_bundle",
    "read_kernels",
    "refuse_installed",
    "staged",
    "write_manifest",
]
