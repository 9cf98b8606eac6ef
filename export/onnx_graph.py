"""The network as an ONNX graph: traced by torch's dynamo exporter, weights stored in half where that is exact."""

import logging
import warnings

import numpy as np
import onnx
import onnxscript  # noqa: F401 - torch.onnx.export needs it: where it is missing, the import of this module says so
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from .norms import with_large_norms_by_channel

OPSET = 18
"""What every engine in reach reads; onnxruntime ran the shipped network as fast with 20, slower with 21."""

SMALLEST_HALVED = 1024
"""Elements; below, a Cast costs more than the bytes it saves."""


def to_onnx(network: nn.Module, shape: tuple[int, int, int]) -> onnx.ModelProto:
    """network: x [B, C, H, W], time [B] -> out [B, C, H, W]; B is free, shape = (C, H, W) is fixed."""
    network = with_large_norms_by_channel(network, shape)
    example = (torch.zeros(2, *shape), torch.zeros(2))
    batch = {0: torch.export.Dim("batch")}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's exporter
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=["x", "time"],
            output_names=["out"],
            dynamic_shapes=(batch, batch),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = program.model_proto
    strip_debugging(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def strip_debugging(model: onnx.ModelProto) -> None:
    """Drop what the tracer records of itself: stack traces with paths of this machine, and names of torch functions."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        value.doc_string = ""
        del value.metadata_props[:]


def round_to_half(network: nn.Module) -> None:
    """Round the large weights of convolutions and linear layers to half precision, in place; norms and biases stay."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2 and parameter.numel() >= SMALLEST_HALVED:
                parameter.copy_(parameter.half().float())


def store_in_half(model: onnx.ModelProto) -> None:
    """Store the large initializers that half represents exactly as half, each with a Cast back to float32."""
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < SMALLEST_HALVED or not is_exact_in_half(values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*casts, *nodes])
    onnx.checker.check_model(model, full_check=True)


def is_exact_in_half(values: np.ndarray) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(values.astype(np.float16).astype(np.float32), values))
