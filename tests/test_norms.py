"""Group norms by channel: the same function, chosen by size, and in the graph without a reshape of the whole tensor."""

import copy

import pytest
import torch
from tiny import tiny_ddpm
from torch import nn

from sdedit.export import norms
from sdedit.export.norms import NormByChannel, large_norms, with_large_norms_by_channel
from sdedit.export.onnx_graph import to_onnx

SHAPE = (3, 16, 16)


def random_norm(channels: int = 64, groups: int = 32) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("groups", [1, 4, 64])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_it_computes_the_group_norm(groups: int, mean: float) -> None:
    """The result is compared with float64.

    Each operation on values of the size of `mean` loses 2^-24 of it. Four operations, a scale of at most 3 and means of
    at most 4 `mean` make 3e-6 `mean`. Without `mean` the loss is 2^-24 of sums of some hundred values.
    """
    torch.manual_seed(0)
    norm = random_norm(groups=groups)
    x = torch.randn(2, 64, 9, 7) + mean * torch.randn(1, 64, 1, 1)
    with torch.inference_mode():
        exact = copy.deepcopy(norm).double()(x.double())
        error = (NormByChannel(norm)(x) - exact).abs().max()
    assert error <= 3e-6 * mean + 1e-5


def test_large_norms_are_replaced_and_the_network_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny network has width 32 at 8 x 8 pixels and 64 at 4 x 4."""
    network = tiny_ddpm()
    assert with_large_norms_by_channel(network, SHAPE) is network
    monkeypatch.setattr(norms, "LARGE", 32 * 8 * 8)
    names = large_norms(network, SHAPE, {})
    assert "down.0.block.0.norm1" in names
    assert "mid.block_1.norm1" not in names
    other = with_large_norms_by_channel(network, SHAPE)
    assert {name for name, module in other.named_modules() if isinstance(module, NormByChannel)} == set(names)
    assert not [module for module in network.modules() if isinstance(module, NormByChannel)]
    assert not network.down[0].block[0].norm1._forward_pre_hooks
    assert {id(p) for p in other.parameters()} == {id(p) for p in network.parameters()}  # gigabytes are not copied
    x, time = torch.randn(2, *SHAPE), torch.tensor([3.0, 700.0])
    with torch.inference_mode():
        # a few float32 roundings apart in each of a dozen norms
        assert torch.allclose(other(x, time), network(x, time), rtol=1e-4, atol=1e-5)


class TwoNorms(nn.Module):
    """Two norms, and as little else as an export takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 1), random_norm(8, 4), nn.SiLU(), random_norm(8, 8))
        self.out = nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(x) + time[:, None, None, None])


def test_the_graph_reshapes_no_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    network = TwoNorms().eval()
    monkeypatch.setattr(norms, "LARGE", 1)
    assert len(large_norms(network, SHAPE, {})) == 2
    kinds = [node.op_type for node in to_onnx(network, SHAPE).graph]
    assert "ReduceMean" in kinds
    assert "InstanceNormalization" not in kinds
