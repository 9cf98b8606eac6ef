"""Networks that run once an edit, not at every step: the halves of an autoencoder, and the encoder of texts.

They run in float32 on the engine that evaluates the bundle's network, or on the first one installed.
"""

import threading
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from sdedit.errors import EngineError, reason

from ..bundle import Bundle
from .memory import check_loading
from .names import ENGINES, first_engine

Arrays = Mapping[str, np.ndarray]

OUTPUTS = ("latent", "image", "context", "pooled")
"""Names of the outputs of components."""


class Component(Protocol):
    """A loaded network. Any thread may call it."""

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name, in float32, for inputs by name. Raises EngineError."""


def load_component(bundle: Bundle, name: str, engine: str, threads: int | None) -> Component:
    """Load the network in file `name` of the bundle. engine: preferred, by name. Raises BundleError and EngineError."""
    if engine not in ENGINES["cpu"]:
        engine = first_engine("cpu", "float32")
    check_loading(bundle, name, engine)
    component = OpenVinoComponent if engine == "openvino" else OnnxRuntimeComponent
    return component(bundle, name, threads or 1)


class OnnxRuntimeComponent:
    """Implements Component."""

    def __init__(self, bundle: Bundle, name: str, threads: int) -> None:
        from .onnxruntime import open_session, shrinking

        self._name = name
        self._session = open_session(bundle.read_network(name), threads, pattern=False)
        self._options = shrinking()

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(None, dict(inputs), self._options)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EngineError(f"onnxruntime failed in {self._name}: {reason(error)}") from None
        return dict(zip((output.name for output in self._session.get_outputs()), values, strict=True))


class OpenVinoComponent:
    """Implements Component. It is compiled for the sizes of the last call; others take a second or more."""

    def __init__(self, bundle: Bundle, name: str, threads: int) -> None:
        from .importing import import_openvino, open_core
        from .openvino import float32_settings, read_model

        ov = import_openvino()
        self._name = name
        self._core, self._settings = open_core(ov), float32_settings(threads)
        self._model = read_model(ov, bundle.read_network(name))
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._compiled: Any = None
        self._lock = threading.Lock()  # its requests are for one thread at a time

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        from .openvino import name_of

        sizes = {name: array.shape for name, array in inputs.items()}
        with self._lock:
            try:
                if sizes != self._sizes:
                    model = self._model.clone()
                    model.reshape({name: list(shape) for name, shape in sizes.items()})
                    self._compiled = self._core.compile_model(model, "CPU", self._settings)
                    self._sizes = sizes
                found = self._compiled.create_infer_request().infer(dict(inputs))
                return {name_of(port, OUTPUTS): np.array(found[port]) for port in self._compiled.outputs}
            except Exception as error:  # its exceptions share no base class
                raise EngineError(f"openvino failed in {self._name}: {reason(error)}") from None
