"""Building a family's network from tensors, and reading its shape from them."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sdedit.errors import CheckpointError, reason

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


def build_network(
    path: Path,
    family: str,
    build: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    shadow: Sequence[Tensor] | None = None,
) -> nn.Module:
    """The network with these tensors. It is laid out on the meta device, so that only a fitting shape takes memory.

    shadow: averages without names, one for each trained parameter in the network's order; they replace the named
    tensors. Raises CheckpointError unless names and shapes are exactly the network's.
    """
    try:
        with torch.device("meta"):
            network = build()
        if shadow is not None:
            tensors = {**tensors, **_name(network, shadow)}
        network.load_state_dict(tensors, assign=True)
    except (RuntimeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not fit the {family} its keys describe: {reason(error)}") from None
    return network.eval().requires_grad_(False)


def _name(network: nn.Module, shadow: Sequence[Tensor]) -> dict[str, Tensor]:
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    if len(names) != len(shadow):
        raise ValueError(f"{len(shadow)} averaged tensors for {len(names)} trained parameters")
    return dict(zip(names, shadow, strict=True))


def first_keys(tensors: Mapping[str, Tensor]) -> str:
    """Some names, for an error."""
    return f"{', '.join(repr(key)[:80] for key in sorted(tensors)[:3]) or 'none'}, ..."


def filters(weight: Tensor | None) -> int:
    """Number of filters of a convolution's weight; 0 for any other tensor."""
    return len(weight) if weight is not None and weight.ndim == 4 and weight.numel() else 0


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the first group of `pattern` matches in the keys."""
    return len({match.group(1) for match in (re.match(pattern, key) for key in tensors) if match})
