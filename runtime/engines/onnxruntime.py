"""The network on ONNX Runtime's CPU provider, in float32."""

import os
from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from . import Evaluate

EXPECTED = {"x": 4, "time": 1, "out": 4}
"""Names and ranks of the network's inputs and output."""


class OnnxRuntimeEngine:
    """See engines.Engine. Batch 1: an image's bytes do not depend on its neighbours."""

    name = "onnxruntime"
    precision = "float32"
    batch = 1

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("engine onnxruntime is not installed: pip install 'sdedit[cpu]'") from None
        self.version = str(onnxruntime.__version__)
        self.threads = threads or available_processors()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # its failures reach the user as one EngineError, not as log lines as well
        options.add_free_dimension_override_by_name("batch", self.batch)
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.network), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"onnxruntime refuses {bundle.network}: {reason(error)}") from None
        self._check(bundle)

    def bind(self, x: np.ndarray, time: np.ndarray, out: np.ndarray) -> Evaluate:
        """See engines.Engine; the buffers must outlive what is returned."""
        binding = self._session.io_binding()
        for name, array in (("x", x), ("time", time)):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        binding.bind_output("out", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        session = self._session

        def evaluate() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise EngineError(f"onnxruntime failed in mid-edit: {reason(error)}") from None

        return evaluate

    def _check(self, bundle: Bundle) -> None:
        values: list[Any] = [*self._session.get_inputs(), *self._session.get_outputs()]
        found = {value.name: (value.type, list(value.shape)) for value in values}
        ranks = {name: len(shape) for name, (_, shape) in found.items()}
        if ranks != EXPECTED or any(kind != "tensor(float)" for kind, _ in found.values()):
            raise EngineError(f"{bundle.network} has {found}; a bundle's network has float x[B,C,H,W], time[B] -> out")
        for name in ("x", "out"):
            _, shape = found[name]
            if any(isinstance(size, int) and size != want for size, want in zip(shape[1:], bundle.shape, strict=True)):
                raise EngineError(f"{bundle.network}: {name} is {shape}, the bundle says {list(bundle.shape)}")


def available_processors() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
