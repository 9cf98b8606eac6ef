"""Attention that is exported head by head, so that an engine holds the weights of one head at a time."""

import math
from collections.abc import Callable
from typing import Any

import onnxscript
import torch

op = onnxscript.opset18

FEW_KEYS = 1024
"""With so many keys or fewer, which a text has, the heads stay together: their product is small."""


def by_heads(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """torch's scaled_dot_product_attention as ONNX, for torch.onnx.export's custom_translation_table.

    query: [B, heads, L, D]. key: [B, heads, S, D]. value: [B, heads, S, E]. Returns [B, heads, L, E]. Exporters write
    one product [B, heads, L, S], which onnxruntime holds twice: 1 GB for 8 heads and 4096 queries and keys. Query and
    key are each multiplied by the root of the scale, as torch's exporter does. Raises ValueError for a mask.
    """
    if attn_mask is not None or is_causal or enable_gqa or dropout_p:
        raise ValueError("attention with a mask, with dropout or with groups of heads is not exported head by head")
    (_, heads, _, width), length = query.shape, key.shape[2]
    parts = 1 if isinstance(length, int) and length <= FEW_KEYS else heads
    root = op.Constant(value_float=math.sqrt(1 / math.sqrt(width) if scale is None else scale))
    queries = split(op.Mul(query, root), parts)
    keys = split(op.Mul(op.Transpose(key, perm=[0, 1, 3, 2]), root), parts)
    values = split(value, parts)
    outputs = [
        op.MatMul(op.Softmax(op.MatMul(q, k), axis=-1), v) for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return outputs[0] if parts == 1 else op.Concat(*outputs, axis=1)


def split(values: Any, parts: int) -> list[Any]:
    """[B, heads, ...] as a list of so many parts [B, heads / parts, ...]."""
    return [values] if parts == 1 else list(op.Split(values, axis=1, num_outputs=parts))


HEAD_BY_HEAD: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten.scaled_dot_product_attention.default: by_heads
}
"""The table for torch.onnx.export. Networks whose attention has a mask, such as encoders of texts, are exported
without it."""
