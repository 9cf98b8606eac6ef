"""The network on ONNX Runtime's CPU provider, in float32."""

from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from . import LABEL, Evaluate, check_signature

KINDS = {LABEL: "tensor(int64)"}
"""ONNX Runtime's names of types that are not float32."""


class OnnxRuntimeEngine:
    """See engines.Engine. Batch 1: an image's bytes do not depend on its neighbours."""

    name = "onnxruntime"
    batch = 1

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise EngineError("engine onnxruntime is not installed: pip install 'sdedit[cpu]'") from None
        self.version = str(onnxruntime.__version__)
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.use_deterministic_compute = True
        options.log_severity_level = 4  # its failures reach the user as one EngineError, not as log lines as well
        options.add_free_dimension_override_by_name("batch", self.batch)
        try:
            self._session = onnxruntime.InferenceSession(
                str(bundle.network), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            values: list[Any] = [*self._session.get_inputs(), *self._session.get_outputs()]
            found = {
                value.name: (value.type == KINDS.get(value.name, "tensor(float)"), value.shape) for value in values
            }
        except Exception as error:  # onnxruntime's exceptions share no base class; names may be no UTF-8
            raise EngineError(f"onnxruntime refuses {bundle.network}: {reason(error)}") from None
        self.threads = int(self._session.get_session_options().intra_op_num_threads)
        check_signature(bundle, found)

    def bind(self, x: np.ndarray, time: np.ndarray, out: np.ndarray, label: np.ndarray | None = None) -> Evaluate:
        """See engines.Engine; the buffers must outlive what is returned."""
        binding = self._session.io_binding()
        for name, array in (("x", x), ("time", time)):
            binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        if label is not None:
            binding.bind_input(LABEL, "cpu", 0, np.int64, label.shape, label.ctypes.data)
        binding.bind_output("out", "cpu", 0, np.float32, out.shape, out.ctypes.data)
        session = self._session

        def evaluate() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise EngineError(f"onnxruntime failed in mid-edit: {reason(error)}") from None

        return evaluate
