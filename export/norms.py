"""Group norms that engines run without changing the layout of their input."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

LARGE = 2**18
"""Elements of one image. From this size on two reorders cost more than a dozen nodes on one value per channel."""


class NormByChannel(nn.Module):
    """A group norm that is computed from sums per channel.

    torch.onnx writes a group norm as a reshape to groups and back. That needs planar memory, where convolutions want
    channels last, so an engine reorders the whole tensor twice. Here only one value per channel is reshaped. The
    variance is the variance within channels plus the variance of their means, so no two large numbers are subtracted.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]"""
        channels = x.shape[1]
        grouped = (-1, self.groups, channels // self.groups)
        means = x.mean((2, 3), keepdim=True)
        within = (x - means).square().mean((2, 3)).reshape(grouped)
        means = means.reshape(grouped)
        mean = means.mean(2, keepdim=True)
        variance = (within + (means - mean).square()).mean(2, keepdim=True)
        scale = self.weight.reshape(1, *grouped[1:]) / (variance + self.eps).sqrt()
        shift = self.bias.reshape(1, *grouped[1:]) - mean * scale
        return x * scale.reshape(-1, channels, 1, 1) + shift.reshape(-1, channels, 1, 1)


def with_large_norms_by_channel(
    network: nn.Module, shape: tuple[int, int, int], conditions: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """A copy of `network` whose torch.nn.GroupNorms with weights and at least LARGE elements are NormByChannel.

    shape: C, H, W of the network's images. conditions: values of its other inputs by name, batch 1. The copy shares all
    tensors with the network. If there is nothing to replace, the network itself is returned.
    """
    large = large_norms(network, shape, conditions or {})
    if not large:
        return network
    tensors = [*network.parameters(), *network.buffers()]
    network = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    for name in large:
        parent, _, own = name.rpartition(".")
        norm = network.get_submodule(name)
        assert isinstance(norm, nn.GroupNorm)
        setattr(network.get_submodule(parent), own, NormByChannel(norm))
    return network


def large_norms(network: nn.Module, shape: tuple[int, int, int], conditions: Mapping[str, Tensor]) -> list[str]:
    """Names of these norms, found by running the network once on the meta device, which knows shapes and no values."""
    found: list[str] = []

    def look(name: str, x: Tensor) -> None:
        if x.ndim == 4 and x[0].numel() >= LARGE:
            found.append(name)

    norms = [(name, module) for name, module in network.named_modules() if type(module) is nn.GroupNorm]
    hooks = [
        module.register_forward_pre_hook(lambda module, args, name=name: look(name, args[0]))
        for name, module in norms
        if module.affine
    ]
    meta = torch.device("meta")
    tensors = {name: tensor.to(meta) for name, tensor in (*network.named_parameters(), *network.named_buffers())}
    values = {name: value.to(meta) for name, value in conditions.items()}
    try:
        with torch.inference_mode():
            functional_call(
                network, tensors, (torch.zeros(1, *shape, device=meta), torch.zeros(1, device=meta)), values
            )
    finally:
        for hook in hooks:
            hook.remove()
    return found
