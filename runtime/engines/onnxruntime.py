"""The network on ONNX Runtime, in float32: on its CPU provider, or on its CUDA provider for the CUDA device."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sdedit.errors import EngineError, install_hint, reason

from ..bundle import NETWORK, Bundle, Network
from ..machine import return_free_memory
from .base import OUT, DeviceArray, Enqueue, Evaluate, check_signature
from .importing import import_onnxruntime
from .memory import is_apart

if TYPE_CHECKING:
    from ..cuda import Gpu

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

DTYPES: dict[str, np.dtype] = {"tensor(float)": np.dtype(np.float32), "tensor(int64)": np.dtype(np.int64)}
"""numpy's dtypes by ONNX Runtime's names."""


class OnnxRuntimeEngine:
    """Implements engines.Engine. Batch 1: an image's bytes do not depend on its neighbours.

    Large weights of a latent network that lie in another file are inputs of its session, so they are in memory once.
    """

    name = "onnxruntime"
    batch = 1

    def __init__(self, bundle: Bundle, precision: str, threads: int) -> None:
        onnxruntime = import_onnxruntime()
        self.version = str(onnxruntime.__version__)
        self.precision = precision
        self._weights: dict[str, np.ndarray] = {}
        if is_apart(bundle, NETWORK, self.name):
            network, self._weights = bundle.read_network_apart()
        else:
            network = bundle.read_network()
        large = bundle.manifest.latent is not None
        self._session = open_session(network, threads, pattern=not large, blocked=not large)
        found = signature(self._session)
        self.threads = int(self._session.get_session_options().intra_op_num_threads)
        check_signature(bundle, {name: value for name, value in found.items() if name not in self._weights})

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """Implements engines.Engine."""
        binding = self._session.io_binding()
        for name, array in {**self._weights, **inputs}.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        binding.bind_output(OUT, "cpu", 0, np.float32, out.shape, out.ctypes.data)

        def evaluate() -> None:
            try:
                self._session.run_with_iobinding(binding)  # self also holds the weights that are bound
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise EngineError(f"onnxruntime failed in mid-edit: {reason(error)}") from None

        return evaluate


class OnnxRuntimeCudaEngine:
    """Implements engines.CudaEngine with batch 1, on our stream and memory. It allocates, so it cannot be captured."""

    name = "onnxruntime"
    precision = "float32"
    batch = 1
    threads: int | None = None
    capturable = False

    def __init__(self, bundle: Bundle, gpu: "Gpu") -> None:
        """Raises EngineError if onnxruntime has no CUDA provider, or would run a part of the network on the CPU."""
        onnxruntime = import_onnxruntime("cuda-ort")
        if CUDA_PROVIDER not in onnxruntime.get_available_providers():
            raise EngineError(
                "the installed onnxruntime has no CUDA provider: "
                f"pip uninstall onnxruntime, then {install_hint('cuda-ort')}"
            )
        self.version = str(onnxruntime.__version__)
        options = onnxruntime.SessionOptions()
        options.use_deterministic_compute = True
        options.log_severity_level = 4
        options.add_free_dimension_override_by_name("batch", self.batch)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        self._index = gpu.index
        settings = {"device_id": str(gpu.index), "user_compute_stream": str(gpu.stream), "use_tf32": "0"}
        network = bundle.read_network()
        give_weights(options, network)
        with gpu.calls("to load the engine"):
            try:
                self._session = onnxruntime.InferenceSession(
                    network.data, options, providers=[(CUDA_PROVIDER, settings)], enable_fallback=0
                )
                found = signature(self._session)
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise EngineError(f"onnxruntime refuses {bundle.network}: {reason(error)}") from None
        if self._session.get_providers()[0] != CUDA_PROVIDER:  # it falls back without an error
            raise EngineError(f"onnxruntime runs on {self._session.get_providers()[0]} where CUDA was asked for")
        check_signature(bundle, found)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, inputs: Mapping[str, DeviceArray], out: DeviceArray) -> Enqueue:
        """Implements engines.CudaEngine; the stream is the one that the session was made for."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cuda", self._index, array.dtype, array.shape, array.address)
        binding.bind_output(OUT, "cuda", self._index, out.dtype, out.shape, out.address)

        def enqueue(stream: int) -> None:
            try:
                self._session.run_with_iobinding(binding, self._options)
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise EngineError(f"onnxruntime failed in mid-edit: {reason(error)}") from None

        return enqueue

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Accept every shape: one session runs them all."""

    def forget(self, shape: tuple[int, ...]) -> None:
        """Do nothing: the session's memory serves all shapes."""

    def close(self) -> None:
        """Drop the session, which frees its memory."""
        del self._session


def open_session(network: Network, threads: int, *, pattern: bool = True, blocked: bool = True) -> Any:
    """The session of a network on the CPU, in float32, at batch 1, which takes the network's data. Raises EngineError.

    pattern: keep the values of later evaluations in one block, which saves about 2 % of a small network's time. The
    block comes beside the memory of the first evaluation, so a large network needs twice as much for its values.
    blocked: give the weights of convolutions a layout of their own, which saves an autoencoder a tenth of its time and
    a latent network at most 2 %. All are copied before the first of them is dropped.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.use_deterministic_compute = True
    options.enable_mem_pattern = pattern
    if not blocked:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4  # no log lines: a failure reaches the user as one EngineError
    options.add_free_dimension_override_by_name("batch", 1)
    give_weights(options, network)
    try:
        session = load(onnxruntime, network, options)
        signature(session)
    except Exception as error:  # onnxruntime's exceptions share no base class; names may be no UTF-8
        raise EngineError(f"onnxruntime refuses {network.path}: {reason(error)}") from None
    return_free_memory()  # loading leaves as much as the weights take
    return session


def load(onnxruntime: Any, network: Network, options: Any) -> Any:
    """Load a network as InferenceSession does, but drop the file's bytes before the weights are loaded beside them.

    These are the two halves of InferenceSession's own constructor; a version without them has the bytes for longer.
    """
    complete = getattr(onnxruntime.InferenceSession, "_from_initialized_c_session", None)
    if complete is None:
        session = onnxruntime.InferenceSession(
            network.take_data(), options, providers=[CPU_PROVIDER], enable_fallback=0
        )
        session._model_bytes = None  # for a fallback, which is off
        return session
    parsed = onnxruntime.capi._pybind_state.InferenceSession(options, network.take_data(), False, False)
    parsed.initialize_session([CPU_PROVIDER], [{}], set())
    return complete(parsed)


def shrinking() -> Any:
    """Options of a run after which the session keeps no memory but its weights, for networks that seldom run."""
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def give_weights(options: Any, network: Network) -> None:
    """Hand over the verified bytes of weights outside the ONNX file, which the session would otherwise read itself."""
    if network.files:
        contents = list(network.files.values())
        options.add_external_initializers_from_files_in_memory(list(network.files), contents, list(map(len, contents)))


def signature(session: Any) -> dict[str, tuple[np.dtype | None, Any]]:
    """The network's inputs and outputs for check_signature."""
    values = [*session.get_inputs(), *session.get_outputs()]
    return {value.name: (DTYPES.get(value.type), value.shape) for value in values}
