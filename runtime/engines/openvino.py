"""The network on OpenVINO's CPU plugin: in float32, in bfloat16 if the processor has it, or as the int8 variant."""

import io
from collections import OrderedDict
from collections.abc import Collection, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle, Network, resized
from ..bundle.memory import with_weights_in_memory
from ..bundle.variants import read_variant, read_variants
from ..machine import processor_name
from .base import OUT, Evaluate, check_signature
from .importing import import_openvino, open_core
from .memory import kept_shapes

HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of our precisions."""


class OpenVinoEngine:
    """Implements engines.Engine. Batch 1: an image's bytes do not depend on its neighbours.

    streams: in how many threads evaluations may run at once; the engine's threads are shared out to them.
    """

    name = "openvino"
    batch = 1

    def __init__(self, bundle: Bundle, precision: str, threads: int, streams: int = 1) -> None:
        ov = import_openvino()
        self.version = str(ov.__version__).partition("-")[0]
        core = open_core(ov)
        if precision == "bfloat16" and not has_bfloat16(core):
            raise EngineError(f"precision 'bfloat16': {processor_name()} has no instructions for it; accepted: float32")
        network, computed = network_for(bundle, precision)
        path = network.path
        settings = {**float32_settings(threads), "NUM_STREAMS": streams}
        if computed != "float32":
            settings |= {"INFERENCE_PRECISION_HINT": hint(core, computed), "EXECUTION_MODE_HINT": "PERFORMANCE"}
        self._core, self._settings, self._tensor = core, settings, ov.Tensor
        self._inputs = bundle.inputs
        self._kept = kept_shapes(bundle)
        self._compiled: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        try:
            self._network = convert_network(ov, bundle, network)
            del network  # its bytes, before the weights are there in the layouts of convolutions
            model = self._compiled[bundle.state_shape] = self._compile(bundle.state_shape)
        except EngineError:
            raise
        except Exception as error:  # its frontends' exceptions share no base class
            raise EngineError(f"openvino refuses {path}: {reason(error)}") from None
        if computed != precision and not has_int8_weights(ov, self._network):
            raise EngineError(f"openvino finds no weights in int8 in {path}")
        if not bundle.image.free:
            del self._network
        running = running_precision(model)
        self.precision = precision if running == computed else running
        self.threads = int(model.get_property("INFERENCE_NUM_THREADS"))
        if (self.precision, self.threads) != (precision, threads):  # it falls back silently
            raise EngineError(
                f"openvino runs {self.precision} on {self.threads} threads "
                f"where {precision} on {threads} was asked for: choose what it runs, or engine onnxruntime"
            )

    def bind(self, inputs: Mapping[str, np.ndarray], out: np.ndarray) -> Evaluate:
        """Implements engines.Engine. A shape that was not bound lately is compiled, which takes about a second."""
        model = self._model_for(inputs["x"].shape[1:])
        request = model.create_infer_request()
        arrays = {**inputs, OUT: out}
        for port in (*model.inputs, *model.outputs):
            request.set_tensor(port, self._tensor(arrays[name_of(port, arrays)], shared_memory=True))

        def evaluate() -> None:
            try:
                request.infer(share_outputs=True)  # else it copies the output for its return value
            except RuntimeError as error:
                raise EngineError(f"openvino failed in mid-edit: {reason(error)}") from None

        return evaluate

    def _model_for(self, shape: tuple[int, ...]) -> Any:
        """The network compiled for states of that shape."""
        if shape not in self._compiled:
            if len(self._compiled) == self._kept:  # before the next is compiled: each has weights of its own
                self._compiled.popitem(last=False)
            try:
                self._compiled[shape] = self._compile(shape)
            except Exception as error:  # its plugins' exceptions share no base class
                raise EngineError(f"openvino refuses states of {list(shape)}: {reason(error)}") from None
        self._compiled.move_to_end(shape)
        return self._compiled[shape]

    def _compile(self, shape: tuple[int, ...]) -> Any:
        """The compiled model for one batch of states of that shape."""
        model = self._network.clone()
        inputs = resized(self._inputs, shape)
        model.reshape({name: [1, *inputs[name].shape] for name in (name_of(port, inputs) for port in model.inputs)})
        return self._core.compile_model(model, "CPU", self._settings)


def running_precision(model: Any) -> str:
    """The precision that a compiled model computes in."""
    if runs_int8(model):
        return "int8"
    running = model.get_property("INFERENCE_PRECISION_HINT").to_string()
    return {hint: name for name, hint in HINTS.items()}.get(running, running)


def network_for(bundle: Bundle, precision: str) -> tuple[Network, str]:
    """The network of a precision, and the one that it computes in: float32 where int8 is that of its weights alone."""
    if precision != "int8":
        return bundle.read_network(), precision
    only_weights = precision in (variants := read_variants(bundle)) and variants[precision].only_weights
    return read_variant(bundle, precision), "float32" if only_weights else precision


def has_int8_weights(ov: ModuleType, model: Any) -> bool:
    """Whether a model that is not compiled yet has constants of more than one dimension in 8-bit integers."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    eight = (ov.Type.i8, ov.Type.u8)
    return any(node.get_element_type() in eight and len(node.get_output_shape(0)) > 1 for node in constants)


def float32_settings(threads: int) -> dict[str, Any]:
    """OpenVINO's settings for a network in float32 on so many threads."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS["float32"],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes may share the machine
        "LOG_LEVEL": "LOG_NONE",
    }


def has_bfloat16(core: Any) -> bool:
    """Whether this processor computes in bfloat16; on others OpenVINO silently runs float32."""
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def hint(core: Any, precision: str) -> str:
    """OpenVINO's hint for a precision. The parts of an int8 network that stay in float run in bfloat16 if they can."""
    if precision == "int8":
        precision = "bfloat16" if has_bfloat16(core) else "float32"
    return HINTS[precision]


def runs_int8(model: Any) -> bool:
    """Whether a compiled model runs any convolution or matrix product in 8-bit integers."""
    executed = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    return any(
        info["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul")
        and info["runtimePrecision"].astype(str) in ("i8", "u8")
        for info in executed
    )


def convert_network(ov: ModuleType, bundle: Bundle, network: Network) -> Any:
    """OpenVINO's model of a network of the bundle, whose inputs and output are the bundle's."""
    source, model = read_source(ov, network)
    places = {place.get_names()[0]: place for place in source.get_inputs()}
    described = {name: (source.get_element_type(p), source.get_partial_shape(p)) for name, p in places.items()}
    described |= {name_of(port, (OUT,)): (port.element_type, port.partial_shape) for port in model.outputs}
    dtypes: dict[Any, np.dtype] = {ov.Type.f32: np.dtype(np.float32), ov.Type.i64: np.dtype(np.int64)}
    check_signature(bundle, {name: (dtypes.get(kind), sizes(shape)) for name, (kind, shape) in described.items()})
    return model


def read_source(ov: ModuleType, network: Network) -> tuple[Any, Any]:
    """A network as OpenVINO's ONNX reader sees it, and its model. The reader is named, so that no other may guess."""
    frontend = ov.frontend.FrontEndManager().load_by_framework("onnx")
    data = with_weights_in_memory(network.data, network.addresses()) if network.places else network.data
    source = frontend.load(io.BytesIO(data))
    return source, frontend.convert(source)  # copies the weights, and drops inputs that the network does not use


def read_model(ov: ModuleType, network: Network) -> Any:
    """OpenVINO's model of any network. Raises EngineError."""
    try:
        return read_source(ov, network)[1]
    except Exception as error:  # its frontends' exceptions share no base class
        raise EngineError(f"openvino refuses {network.path}: {reason(error)}") from None


def name_of(port: Any, known: Collection[str]) -> str:
    """The name of an input or output. OpenVINO gives a port the names of other values that are equal to it too."""
    names: set[str] = port.get_names()
    return next((name for name in known if name in names), port.get_any_name())


def sizes(shape: Any) -> list[object]:
    """The sizes of a partial shape: an int for a fixed size, "?" for a free one."""
    return [size.get_length() if size.is_static else "?" for size in shape]
