"""A bundle: the folder that export writes and every target reads. Data only; every file is verified before use."""

from .files import MANIFEST, file_sha256
from .installed import SHIPPED, is_installed, refuse_installed
from .kernels import read_kernels
from .latent import DECODER, ENCODER, KNOWN, PIXELS, PIXELS_PARITY, PREVIEW, TEXT, Text, TextEncoder
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
    resized,
)
from .reading import Bundle, Network, read_bundle
from .staging import Kind, staged
from .writing import link_files, write_manifest

__all__ = [
    "DECODER",
    "ENCODER",
    "KNOWN",
    "MANIFEST",
    "MODEL_CARD",
    "NETWORK",
    "PIXELS",
    "PIXELS_PARITY",
    "PREVIEW",
    "REFERENCE",
    "REVISION",
    "SCHEDULE",
    "SHIPPED",
    "TEXT",
    "Bundle",
    "ImageSpec",
    "Kind",
    "Manifest",
    "Network",
    "TensorSpec",
    "Text",
    "TextEncoder",
    "file_sha256",
    "is_installed",
    "link_files",
    "network_inputs",
    "read_bundle",
    "read_kernels",
    "refuse_installed",
    "resized",
    "staged",
    "write_manifest",
]
