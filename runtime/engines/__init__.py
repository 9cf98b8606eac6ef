"""Engines evaluate a bundle's network. Importing this room imports none of them."""

from .base import ENGINES, PRECISIONS, CudaEngine, DeviceArray, Engine, Enqueue, Evaluate
from .opening import choose, installed_engines, load_engine, open_engine
from .opening_cuda import CUDA_ENGINES, open_cuda_engine

__all__ = [
    "CUDA_ENGINES",
    "ENGINES",
    "PRECISIONS",
    "CudaEngine",
    "DeviceArray",
    "Engine",
    "Enqueue",
    "Evaluate",
    "choose",
    "installed_engines",
    "load_engine",
    "open_cuda_engine",
    "open_engine",
]
