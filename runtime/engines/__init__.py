"""Engines evaluate a bundle's network. Importing this room imports none of them."""

from .base import CudaEngine, DeviceArray, Engine, Enqueue, Evaluate
from .components import Component, load_component
from .names import ENGINE_NAMES, ENGINES, PRECISION_NAMES, check_request, installed_engines, precisions_of
from .opening import choose, load_engine, load_for_lanes, open_engine
from .opening_cuda import open_cuda_engine
from .tiled import TiledEngine

__all__ = [
    "ENGINES",
    "ENGINE_NAMES",
    "PRECISION_NAMES",
    "Component",
    "CudaEngine",
    "DeviceArray",
    "Engine",
    "Enqueue",
    "Evaluate",
    "TiledEngine",
    "check_request",
    "choose",
    "installed_engines",
    "load_component",
    "load_engine",
    "load_for_lanes",
    "open_cuda_engine",
    "open_engine",
    "precisions_of",
]
