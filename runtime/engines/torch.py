"""The network on torch for the CUDA device: the bundle's own ONNX, on our memory and our stream.

For machines that have torch and no TensorRT. TorchEngine is tested on the fake driver, whose memory torch's CPU can
use. TorchOnGpu, which holds all calls of torch.cuda, has no test here: docs/gpu.md says where it ran.
"""

import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from .base import DeviceArray, Enqueue
from .torch_network import TorchNetwork, import_torch

if TYPE_CHECKING:
    from ..cuda import Gpu


FLAGS = threading.Lock()
"""Held while torch's flags, which the whole process shares, are ours: editors on several GPUs have a thread each."""


class TorchEngine:
    """Implements engines.CudaEngine. It runs all slots at once."""

    name = "torch"
    threads: int | None = None
    capturable = True

    def __init__(self, bundle: Bundle, gpu: "Gpu", precision: str, slots: int) -> None:
        """Raises EngineError if torch has no CUDA, or cannot run the network."""
        torch, _ = import_torch()
        self.version, self.precision, self.batch = str(torch.__version__), precision, slots
        with gpu.calls("to load the engine"):
            self._torch: Any = TorchOnGpu(gpu)
            with self._torch.active():
                self._network: Any = TorchNetwork(bundle.read_network(), self._torch.device, precision)

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine. A captured graph keeps using the pool's memory, which nobody else gets."""
        tensors = {name: self._torch.tensor(array) for name, array in inputs.items()}
        result = self._torch.tensor(out)
        network = self._network.for_inputs(tensors)

        def enqueue(stream: int) -> None:
            del stream  # the one that the engine was made for
            try:
                self._torch.enqueue(lambda: result.copy_(network(tensors)))
            except RuntimeError as error:  # torch's errors
                raise EngineError(f"torch failed in mid-edit: {reason(error)}") from None

        return enqueue

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Accept every shape."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Do nothing: the pool's memory serves all shapes."""

    def close(self) -> None:
        """Drop weights and memory."""
        self._network = self._torch = None


class TorchOnGpu:
    """torch on a Gpu's memory and stream, with a pool of memory of its own. device: torch's name of the GPU."""

    def __init__(self, gpu: "Gpu") -> None:
        """Raises EngineError if torch has no CUDA."""
        torch, _ = import_torch()
        if not torch.cuda.is_available():
            raise EngineError(f"the installed torch {torch.__version__} finds no GPU: install one with CUDA")
        self._torch = torch
        self.device = f"cuda:{gpu.index}"
        self._stream = torch.cuda.ExternalStream(gpu.stream, device=self.device)
        with torch.cuda.device(self.device):  # a pool is of torch's current GPU
            self._pool: Any = torch.cuda.MemPool()

    def tensor(self, array: DeviceArray) -> Any:
        """The array's memory as a tensor."""
        return self._torch.as_tensor(Shared(array), device=self.device)

    def enqueue(self, function: Callable[[], object]) -> None:
        """Enqueue, or capture, what the function asks torch to do."""
        with self.active():
            function()

    def active(self) -> ExitStack:
        """While it is open, this thread's torch runs on our stream, allocates from our pool and learns nothing.

        float32 is float32: torch's default for convolutions is TF32. Other editors' threads wait meanwhile.
        """
        stack, cuda = ExitStack(), self._torch.cuda
        stack.enter_context(FLAGS)
        stack.enter_context(self._torch.inference_mode())
        stack.enter_context(self._torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        stack.enter_context(cuda.stream(self._stream))
        stack.enter_context(cuda.use_mem_pool(self._pool, self.device))
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
