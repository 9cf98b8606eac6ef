"""Attention as latent networks are exported with it: torch's numbers, with the weights of one head at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, load, shape_inference
from torch import Tensor, nn

from sdedit.export.attention import by_heads
from sdedit.export.onnx_graph import component_to_onnx, save_onnx

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH = 4
"""Width of a head."""


class Attend(nn.Module):
    """Attention of a picture to itself, or to a few constant keys, such as those of a text."""

    def __init__(self, heads: int, keys: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        generator = torch.Generator().manual_seed(0)
        self.told = None if keys is None else torch.randn(1, heads, keys, WIDTH, generator=generator)

    def forward(self, image: Tensor) -> Tensor:
        """[B, heads WIDTH, H, W] -> the same."""
        query = image.reshape(image.shape[0], self.heads, WIDTH, -1).transpose(2, 3)
        key = 2 * query if self.told is None else self.told.expand(image.shape[0], -1, -1, -1)
        out = nn.functional.scaled_dot_product_attention(query, key, key + 1)
        return out.transpose(2, 3).reshape(image.shape)


def exported(network: Attend, path: Path) -> ModelProto:
    """The network's graph, with free sides that are multiples of 2."""
    example = torch.zeros(2, network.heads * WIDTH, 6, 10)
    save_onnx(component_to_onnx(network.eval(), {"image": example}, ["out"], 2), path)
    return load(path)


def largest(model: ModelProto, height: int, width: int) -> int:
    """Elements of the largest value that the graph computes for a picture of that size."""
    for value in (*model.graph.input, *model.graph.output):
        for axis, size in ((0, 1), (2, height), (3, width)):
            value.type.tensor_type.shape.dim[axis].dim_value = size
    known = shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph.value_info
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in known]
    assert all(min(shape, default=1) > 0 for shape in sizes), "every size is known"
    return max(int(np.prod(shape)) for shape in sizes)


@pytest.mark.parametrize(("heads", "keys", "size"), [(1, None, 320 * 320), (3, None, 320 * 320), (3, 7, 3 * 320 * 7)])
def test_heads_are_exported_one_by_one(tmp_path: Path, heads: int, keys: int | None, size: int) -> None:
    """size: elements of the largest value for 16x20 pixels. A text's few keys need little, so heads stay together."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="engines are in the extra cpu: pip install '.[cpu]'")
    network = Attend(heads, keys)
    model = exported(network, tmp_path / "attend.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "attend.onnx", providers=["CPUExecutionProvider"])
    for height, width in ((2, 2), (8, 6)):
        image = torch.randn(1, heads * WIDTH, height, width, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            expected = network(image).numpy()
        (found,) = session.run(None, {"image": image.numpy()})
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()
    assert largest(model, 16, 20) == size


@pytest.mark.parametrize("options", [{"attn_mask": "a mask"}, {"is_causal": True}, {"dropout_p": 0.1}], ids=str)
def test_other_kinds_of_attention_are_refused(options: dict[str, object]) -> None:
    """They would be exported as plain attention."""
    with pytest.raises(ValueError, match="is not exported head by head"):
        by_heads(None, None, None, **options)  # type: ignore[arg-type]
