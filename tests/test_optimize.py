"""Graphs are simplified as onnxscript does it with all of its rules."""

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdedit.export.onnx_graph import OPSET
from sdedit.export.optimize import optimize

Operation = tuple[str, tuple[str, ...], tuple[object, ...]]


class Simplifiable(nn.Module):
    """A norm, a pad, views, halves, and sums that can be left out: networks have these, as a tracer sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 8)
        self.convolution = nn.Conv2d(8, 16, 3, bias=False)
        self.linear = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 8, H, W] -> [B, H W, 2]"""
        x = self.convolution(F.pad(self.norm(x), (1, 1, 1, 1)))
        x = self.linear(x.flatten(2).mT * 1 + 0)
        first, gate = x[:, :, :2], x[:, :, 2:]
        return first * F.silu(gate).unsqueeze(0).unsqueeze(0).squeeze((0, 1))


def operations(model: ir.Model) -> list[Operation]:
    """The nodes in their order: name, attributes, and inputs as numbers of values or the constants themselves."""
    numbers: dict[ir.Value, int] = {value: number for number, value in enumerate(model.graph.inputs)}
    found: list[Operation] = []
    for node in model.graph:
        inputs: list[object] = []
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                inputs.append(value.const_value.numpy().tolist())
            else:
                inputs.append(None if value is None else numbers[value])
        for output in node.outputs:
            numbers[output] = len(numbers)
        found.append((node.op_type, tuple(sorted(map(str, node.attributes.values()))), tuple(map(str, inputs))))
    return found


def test_a_graph_is_simplified_as_by_onnxscripts_rules() -> None:
    batch, rows = torch.export.Dim("batch"), torch.export.Dim("rows")
    program = torch.onnx.export(
        Simplifiable().eval(),
        (torch.zeros(2, 8, 6, 10),),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=({0: batch, 2: rows},),
        optimize=False,
        verbose=False,
    )
    assert program is not None
    ours, theirs = program.model, program.model.clone()
    before = operations(ours)
    optimize(ours)
    onnxscript.optimizer.optimize(theirs)
    assert operations(ours) == operations(theirs)
    assert len(operations(ours)) < len(before)
    assert "Pad" in [name for name, *_ in before]
    assert "Pad" not in [name for name, *_ in operations(ours)]
