"""The NVIDIA driver from Python: one GPU, its memory, kernels and graphs."""

from .context import Gpu, GpuKernel, OutOfMemory

__all__ = ["Gpu", "GpuKernel", "OutOfMemory"]
