"""A bundle's ONNX network evaluated by torch, node after node, on any of torch's devices. Needs torch and onnx."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sdedit.errors import EngineError, install_hint, raise_interrupt, reason

from ..bundle import Network
from .base import OUT
from .torch_operators import NUMBERS, OPERATORS

MULTIPLYING = {"Conv", "Gemm", "MatMul"}
"""Operators that compute in the network's precision; their sums are torch's. All others take what they are given."""

ON_THE_HOST = {"Pad": (1, 2), "Resize": (1, 2, 3)}
"""Inputs that are read as numbers, though they may be floats."""


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    last_read: tuple[str, ...]
    """Values that no later node reads."""
    numbers: Mapping[int, Any] = field(default_factory=dict)
    """Inputs that are known already, by their places: numbers on the host."""


class TorchNetwork:
    """The network as a function of tensors. It computes in `precision` where that pays, else in float32."""

    def __init__(self, network: Network, device: str, precision: str) -> None:
        """device: torch's name. precision: float32, float16 or bfloat16. Raises EngineError for what it cannot run."""
        self.torch, onnx = import_torch()
        self._type, self._device = getattr(self.torch, precision), device
        self._host: set[str] = set()
        try:
            graph = onnx.load_from_string(network.data).graph
            constants = {tensor.name: values_of(onnx, network, tensor) for tensor in graph.initializer}
            nodes = [node for node in graph.node if node.op_type != "Constant"]
            for node in graph.node:
                if node.op_type == "Constant":
                    constants[node.output[0]] = constant_of(onnx, node)
        except (ValueError, TypeError, KeyError) as error:
            raise EngineError(f"torch cannot read {network.path}: {reason(error)}") from None
        unknown = sorted({node.op_type for node in nodes} - OPERATORS.keys())
        if unknown:
            raise EngineError(f"engine torch has no {', '.join(unknown)}, which {network.path} needs: choose another")
        self._nodes = with_last_reads(onnx, nodes, constants.keys())
        self._constants = {name: self._placed(name, value) for name, value in constants.items()}

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The output float32 [B, C, H, W] for the inputs by name. Raises EngineError for what it cannot evaluate."""
        values = {"": None, **self._constants, **inputs}
        for node in self._nodes:
            given = [node.numbers[at] if at in node.numbers else values[name] for at, name in enumerate(node.inputs)]
            values.update(zip(node.outputs, self._evaluate(node, given), strict=False))
            for name in node.last_read:
                values.pop(name, None)
        return values[OUT].float()

    def for_inputs(self, inputs: Mapping[str, Any]) -> "TorchNetwork":
        """The network for inputs of these shapes alone: all that depends on shapes is computed now, on the host.

        No call of it reads a number from a device, so that CUDA can capture it and torch.compile makes one graph of it.
        Raises EngineError for what it cannot evaluate.
        """
        values = {"": None, **{name: self._pretended(name) for name in self._constants}}
        values |= {name: value.to("meta") for name, value in inputs.items()}
        kept, constants = [], dict(self._constants)
        for node in self._nodes:
            given = [values[name] for name in node.inputs]
            numbers = numbers_of(node, given)
            if any(value is not None and value.is_meta for value in given):
                given = [value if value is None else value.to("meta") for value in given]
            outputs = self._evaluate(node, [numbers.get(at, value) for at, value in enumerate(given)])
            values.update(zip(node.outputs, outputs, strict=False))
            if any(value.is_meta for value in outputs):
                kept.append(replace(node, numbers=numbers))
            else:
                constants.update(zip(node.outputs, outputs, strict=False))
        read = {name for node in kept for at, name in enumerate(node.inputs) if at not in node.numbers}
        fixed = copy.copy(self)
        fixed._nodes = kept
        fixed._constants = {name: value.to(self._device) for name, value in constants.items() if name in read}
        return fixed

    def _evaluate(self, node: Node, given: list[Any]) -> tuple[Any, ...]:
        """The outputs of a node for its inputs."""
        if node.kind in MULTIPLYING:
            given = [value if value is None else value.to(self._type) for value in given]
        try:
            result = OPERATORS[node.kind](self.torch, node.attributes, *given)
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError(f"engine torch does not evaluate {node.kind}: {reason(error)}") from None
        return result if isinstance(result, tuple) else (result,)

    def _placed(self, name: str, value: np.ndarray) -> Any:
        """A constant where its readers need it: numbers of sizes on the host, weights in their readers' precision."""
        tensor = self.torch.from_numpy(np.array(value))
        readers = [(node.kind, at) for node in self._nodes for at, given in enumerate(node.inputs) if given == name]
        if not tensor.is_floating_point() or any(at in ON_THE_HOST.get(kind, ()) for kind, at in readers):
            self._host.add(name)
            return tensor
        return tensor.to(self._device, self._type if {kind for kind, _ in readers} <= MULTIPLYING else None)

    def _pretended(self, name: str) -> Any:
        """A constant as for_inputs evaluates with it: numbers of sizes as they are, weights as shapes alone."""
        return self._constants[name] if name in self._host else self._constants[name].to("meta")


def numbers_of(node: Node, given: list[Any]) -> dict[int, Any]:
    """The inputs of a node that are numbers on the host, by their places. Raises EngineError if they are not known."""
    numbers = {}
    for at in NUMBERS.get(node.kind, ()):
        if at < len(given) and given[at] is not None:
            if given[at].is_meta:
                raise EngineError(f"engine torch does not evaluate {node.kind}: its sizes depend on values")
            numbers[at] = given[at].tolist()
    return numbers


def import_torch() -> tuple[Any, Any]:
    """The packages torch and onnx; raises EngineError that names the extra if one is missing."""
    try:
        import onnx
        import torch
    except ImportError as error:
        raise_interrupt(error)
        raise EngineError(f"engine torch needs the package {error.name}: {install_hint('export')}") from None
    return torch, onnx


def values_of(onnx: Any, network: Network, tensor: Any) -> np.ndarray:
    """The values of an initializer, in the file or outside of it."""
    place = next((place for place in network.places if place.name == tensor.name), None)
    if place is None:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    content = network.files[place.location][place.offset : place.offset + place.length]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return np.frombuffer(content, dtype).reshape(tuple(tensor.dims))


def constant_of(onnx: Any, node: Any) -> np.ndarray:
    """The value of a Constant node."""
    value = onnx.helper.get_attribute_value(node.attribute[0])
    return np.asarray(onnx.numpy_helper.to_array(value) if node.attribute[0].name == "value" else value)


def with_last_reads(onnx: Any, nodes: list[Any], kept: Any) -> list[Node]:
    """The nodes, each with the values that it is the last one to read, so that memory is freed early."""
    last = {name: at for at, node in enumerate(nodes) for name in node.input}
    produced = {name for node in nodes for name in node.output}
    result = []
    for at, node in enumerate(nodes):
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        told = {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}
        done = {name for name in node.input if last[name] == at and name in produced and name not in kept}
        inputs, outputs = tuple(node.input), tuple(node.output)
        result.append(Node(node.op_type, inputs, outputs, told, tuple(sorted(done - {OUT}))))
    return result
