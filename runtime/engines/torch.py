"""The network on torch for the CUDA device: the bundle's own ONNX, on our memory and our stream.

For machines that have torch and no TensorRT. It was never executed on a GPU; TorchNetwork is tested on torch's CPU.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from .base import DeviceArray, Enqueue
from .torch_network import TorchNetwork, import_torch

if TYPE_CHECKING:
    from ..cuda import Gpu


class TorchEngine:
    """Implements engines.CudaEngine. It runs all slots at once; torch's memory for it is a pool of its own."""

    name = "torch"
    threads: int | None = None
    capturable = True

    def __init__(self, bundle: Bundle, gpu: "Gpu", precision: str, slots: int) -> None:
        """Raises EngineError if torch has no CUDA, or cannot run the network."""
        torch, _ = import_torch()
        if not torch.cuda.is_available():
            raise EngineError(f"the installed torch {torch.__version__} finds no GPU: install one with CUDA")
        self._gpu, self._torch = gpu, torch
        self.version, self.precision, self.batch = str(torch.__version__), precision, slots
        self._device = f"cuda:{gpu.index}"
        with gpu.calls("to load the engine"):
            self._stream = torch.cuda.ExternalStream(gpu.stream, device=self._device)
            self._pool: Any = torch.cuda.MemPool()
            with self._ours():
                self._network: Any = TorchNetwork(bundle.read_network(), self._device, precision)

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine. A captured graph keeps using the pool's memory, which nobody else gets."""
        torch = self._torch
        tensors = {name: torch.as_tensor(Shared(array), device=self._device) for name, array in inputs.items()}
        result = torch.as_tensor(Shared(out), device=self._device)

        def enqueue(stream: int) -> None:
            del stream  # the one that the engine was made for
            try:
                with self._ours():
                    result.copy_(self._network(tensors))
            except RuntimeError as error:  # torch's errors
                raise EngineError(f"torch failed in mid-edit: {reason(error)}") from None

        return enqueue

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Accept every shape."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Do nothing: the pool's memory serves all shapes."""

    def close(self) -> None:
        """Drop weights and memory."""
        self._network = self._pool = None

    def _ours(self) -> ExitStack:
        """While it is open, this thread's torch runs on our stream, allocates from our pool and learns nothing."""
        stack, cuda = ExitStack(), self._torch.cuda
        stack.enter_context(self._torch.inference_mode())
        stack.enter_context(cuda.stream(self._stream))
        stack.enter_context(cuda.use_mem_pool(self._pool))
        return stack


class Shared:
    """A DeviceArray as torch takes it without a copy."""

    def __init__(self, array: DeviceArray) -> None:
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.address, False),
            "version": 3,
            "strides": None,
        }
