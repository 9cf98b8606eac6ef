"""Simplify a graph that torch's exporter wrote, as torch.onnx.export(optimize=True) does, in less time and memory."""

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules import common as rules

RULES = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.materialize_reshape_shape_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.flatten_to_reshape_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_gemm_rule,
)
"""onnxscript's own, in its order, but for those of layers that no network here has, and for slice_split_rule, which
looks through the whole graph at each node: 8 of 10 seconds for Stable Diffusion 1.5's network."""

ROUNDS = 2
"""A round leaves constants for the next to fold."""


def optimize(model: ir.Model) -> None:
    """Fold constants and apply RULES, in place, and free the weights that fall away.

    The rules hold on to what they last saw, and so to the memory of all weights of a file that torch has mapped.
    """
    before = list(model.graph.initializers.values())
    onnxscript.optimizer.inline(model)
    for _ in range(ROUNDS):
        onnxscript.optimizer.fold_constants(model, onnx_shape_inference=True)
        rewrite(model, RULES)
    ir.passes.Sequential(
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    )(model)
    kept = set(map(id, model.graph.initializers.values()))
    for value in before:
        if id(value) not in kept:
            value.const_value = None
