"""Building a family's network from tensors, and reading its shape from them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sdedit.errors import CheckpointError, reason

from .contents import Contents
from .questions import NUMBER, Answers, Question, parse_number

NULL_LABEL = Question("null_label", NUMBER, "none")
"""The label that was trained to stand for no class; files do not state whether there is one."""


def labels(path: Path, answers: Answers, rows: int) -> tuple[int, int | None]:
    """classes and null_label of a network that embeds `rows` labels, from the answer to NULL_LABEL.

    A null label after all others is not one of the classes. Raises CheckpointError.
    """
    if answers[NULL_LABEL.name] == "none":
        return rows, None
    null = parse_number(path, NULL_LABEL.name, answers[NULL_LABEL.name], 0, rows - 1)
    return (null if null == rows - 1 and null else rows), null


def build_network(contents: Contents, family: str, build: Callable[[], nn.Module]) -> nn.Module:
    """The network with the tensors of a file. It is laid out on the meta device: only a fitting shape takes memory.

    Raises CheckpointError unless names and shapes are exactly the network's, and averages, if the file has some, cover
    all trained parameters.
    """
    path = contents.path
    try:
        with torch.device("meta"):
            network = build()
        tensors = {**contents.tensors, **named_averages(contents, network)}
        network.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not fit the {family} that its keys describe: {reason(error)}") from None
    if contents.averaged is not None:
        missing = [name for name in trained_parameters(network) if name not in contents.averaged]
        if missing:
            others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
            raise CheckpointError(f"{path}: its averages lack {missing[0]!r}{others} of the trained parameters")
    return network.eval().requires_grad_(False)


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def named_averages(contents: Contents, network: nn.Module) -> dict[str, Tensor]:
    """Averages without names (torch_ema, score_sde, diffusers) by the names of the parameters, in the file's order.

    They are of the trained parameters, or of all. Raises ValueError if their number or shapes do not fit.
    """
    averages = contents.unnamed_averages
    if averages is None:
        return {}
    trained, every = trained_parameters(network), dict(network.named_parameters())
    names = [name for name in contents.tensors if name in (every if len(averages) == len(every) else trained)]
    if len(names) != len(averages):
        raise ValueError(f"{len(averages)} averaged tensors for {len(names)} trained parameters")
    for name, tensor in zip(names, averages, strict=True):
        if tensor.shape != every[name].shape:
            raise ValueError(f"the average of {name} has the shape {list(tensor.shape)}, not {list(every[name].shape)}")
    return dict(zip(names, averages, strict=True))


def first_keys(tensors: Mapping[str, Tensor]) -> str:
    """Some names, for an error."""
    return f"{', '.join(repr(key)[:80] for key in sorted(tensors)[:3]) or 'none'}, ..."


def filters(weight: Tensor | None) -> int:
    """Number of filters of a convolution's weight; 0 for any other tensor."""
    return len(weight) if weight is not None and weight.ndim == 4 and weight.numel() else 0


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the first group of `pattern` matches in the keys."""
    return len({match.group(1) for match in (re.match(pattern, key) for key in tensors) if match})
