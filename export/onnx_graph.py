"""Turn a network into an ONNX graph with torch's dynamo exporter; weights are stored in half if that is exact.

Until it is saved the graph uses torch's own tensors, so that a large network is in memory only once.
"""

import gc
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from torch import nn

from sdedit.runtime.bundle import KNOWN

from .attention import HEAD_BY_HEAD
from .norms import with_large_norms_by_channel
from .optimize import optimize

OPSET = 18
"""ONNX operator set: every engine reads it. onnxruntime ran the shipped network as fast with 20, slower with 21."""

SMALLEST_HALVED = 1024
"""Fewest elements of a weight stored in half: with fewer, a Cast costs more than it saves."""

EXTERNAL_ABOVE = 1_500_000_000
"""Bytes of weights. More of them go into a file of their own, because protobuf ends at 2 GB."""

DATA_SUFFIX = ".data"

CHUNK = 2**18
"""Elements that are compared at a time: what they take stays in the processor's cache."""

TRACED_BATCHES = 63
"""Largest batch that the tracer is told of. diffusers' networks make a copy from 64 images on, and the tracer, told of
any batch, finds that out at its end and begins again. The graph itself takes any batch."""


def to_onnx(
    network: nn.Module,
    shape: tuple[int, int, int],
    labels: bool = False,
    multiple_of: int | None = None,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    head_by_head: bool = False,
) -> ir.Model:
    """network: x [B, C, H, W], time [B] -> out [B, C, H, W]; B is free, C of shape = (C, H, W) is fixed.

    labels: whether the network takes label int64 [B] too. multiple_of: H and W are free too, but for being multiples of
    it; None: they are fixed. inputs: shapes of further float32 inputs by name, without the batch. head_by_head: how
    attention is written, see attention.by_heads. Raises RuntimeError if the network does not allow that.
    """
    network = with_large_norms_by_channel(network, shape, example_conditions(1, labels, inputs or {}))
    batch = torch.export.Dim("batch", max=TRACED_BATCHES)
    image: dict[int, Any] = {0: batch}
    if multiple_of is not None:
        rows, columns = torch.export.Dim("rows"), torch.export.Dim("columns")
        image |= {2: multiple_of * rows, 3: multiple_of * columns}
        # sides that differ, so that nothing takes one for the other
        inputs = {
            name: (*size[:1], 3 * multiple_of, 5 * multiple_of) if name == KNOWN else size
            for name, size in (inputs or {}).items()
        }
        shape = (shape[0], 3 * multiple_of, 5 * multiple_of)
    example = {"x": torch.zeros(2, *shape), "time": torch.zeros(2), **example_conditions(2, labels, inputs or {})}
    sizes = {name: image if name in ("x", KNOWN) else {0: batch} for name in example}
    model = export_model(network, example, sizes, ["out"], head_by_head=head_by_head)
    if multiple_of is not None:
        name_sides(model)
    return model


def example_conditions(batch: int, labels: bool, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Values for a network's inputs besides x and time, by name."""
    label = {"label": torch.zeros(batch, dtype=torch.int64)} if labels else {}
    return {**label, **{name: torch.zeros(batch, *shape) for name, shape in inputs.items()}}


def component_to_onnx(
    network: nn.Module, example: Mapping[str, torch.Tensor], outputs: list[str], multiple_of: int | None = None
) -> ir.Model:
    """A network of inputs by name, in the order of `example`; the batch is free.

    multiple_of: of the sides of its one picture, which are free; None: it has none, but texts.
    """
    batch = torch.export.Dim("batch", max=TRACED_BATCHES)
    size: dict[int, Any] = {0: batch}
    if multiple_of is not None:
        size |= {2: multiple_of * torch.export.Dim("rows"), 3: multiple_of * torch.export.Dim("columns")}
    sizes = dict.fromkeys(example, size)
    model = export_model(network, example, sizes, outputs, by_name=False, head_by_head=multiple_of is not None)
    name_sides(model)
    return model


def export_model(
    network: nn.Module,
    example: Mapping[str, torch.Tensor],
    sizes: Mapping[str, dict[int, Any]],
    outputs: list[str],
    by_name: bool = True,
    head_by_head: bool = False,
) -> ir.Model:
    """The graph that torch's exporter gives. sizes: free dimensions of each input. by_name: after x and time inputs are
    given by their names. head_by_head: see attention.by_heads."""
    values = list(example.values())
    count = 2 if by_name else len(values)
    named = dict(list(example.items())[count:])
    free: Any = dict(sizes) if by_name else tuple(sizes.values())
    gc.collect()  # an exporter's earlier graph holds itself, and copies of some weights
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch's exporter
        program = torch.onnx.export(
            network,
            tuple(values[:count]),
            kwargs=named,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            output_names=outputs,
            dynamic_shapes=free,
            custom_translation_table=HEAD_BY_HEAD if head_by_head else None,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    optimize(program.model)
    strip_debugging(program.model)
    return program.model


def name_sides(model: ir.Model) -> None:
    """Name the batch and the free sides of inputs and outputs; the tracer's names are terms such as 8*rows."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and len(value.shape) == 4:
            value.shape = ir.Shape(["batch", value.shape[1], "height", "width"])
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None  # in those terms; engines infer it


def save_onnx(model: ir.Model, path: Path, half: bool = False) -> None:
    """Write the model to `path`, check it, and let go of its weights. half: see store_in_half.

    Weights too large for one file go beside it, with DATA_SUFFIX.
    """
    with one_thread():
        if half:
            store_in_half(model)
        weights = model.graph.initializers.values()
        size = sum(value.const_value.nbytes for value in weights if value.const_value is not None)
        ir.save(model, path, external_data=path.name + DATA_SUFFIX if size > EXTERNAL_ABOVE else None)
    onnx.checker.check_model(str(path), full_check=True)
    for value in weights:
        value.const_value = None  # onnxscript's rewriter holds on to the last graph


def strip_debugging(model: ir.Model) -> None:
    """Drop the tracer's records: stack traces with paths of this machine, and names of torch functions."""
    graph = model.graph
    nodes = list(graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
    parts: list[Any] = [model, graph, *nodes, *values]
    for part in parts:
        part.doc_string = None
        part.metadata_props.clear()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread. Several that touch new memory wait for each other in the kernel: two round 4 GB of
    mapped weights in 5 seconds, one in 3."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def round_to_half(network: nn.Module) -> None:
    """Round the large weights of convolutions and linear layers to half precision, in place; norms and biases stay."""
    with torch.no_grad(), one_thread():
        for parameter in network.parameters():
            if parameter.ndim >= 2 and parameter.numel() >= SMALLEST_HALVED:
                parameter.copy_(parameter.half())


def store_in_half(model: ir.Model) -> None:
    """Store the large initializers that half represents exactly as half, each with a Cast back to float32.

    They become half only while they are written, so that the weights are never all in memory twice.
    """
    graph = model.graph
    casts = []
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < SMALLEST_HALVED:
            continue
        values = torch.from_numpy(tensor.numpy())
        if not all(torch.equal(part.half().float(), part) for part in values.flatten().split(CHUNK)):
            continue
        halved = ir.LazyTensor(partial(in_half, values), ir.DataType.FLOAT16, ir.Shape(values.shape))
        half = ir.Value(
            name=f"{name}.half", type=ir.TensorType(ir.DataType.FLOAT16), shape=value.shape, const_value=halved
        )
        del graph.initializers[name]
        graph.register_initializer(half)
        value.const_value = None
        to = ir.AttrInt64("to", ir.DataType.FLOAT)
        casts.append(ir.Node("", "Cast", [half], [to], outputs=[value], name=f"{name}.cast"))
    if casts:
        graph.insert_before(graph[0], casts)


def in_half(values: torch.Tensor) -> ir.Tensor:
    return ir.Tensor(values.half().numpy())
