"""The network in a file's content: wrappers are taken off, and averaged weights come before trained ones.

The rule: the averages are used whole, or an error names the odd entry. A file with averages never loads as trained, and
no trained parameter is mixed in.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit.errors import CheckpointError

from .averages import MAX_DEPTH, Averages, averages_in, split_by_prefix
from .tensors import ACCEPTED, Tensors, copy_to_float32, plain_tensors, strip, to_float32

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "unet", "params", "module")
"""Keys of a network in training scripts' files, in the order in which they are looked for."""

AVERAGED_MODEL_COUNTER = "n_averaged"
"""A key that torch.optim.swa_utils.AveragedModel writes beside its averages."""


@dataclass(frozen=True)
class Contents:
    """One network in a file.

    tensors: float32 on the CPU, by name without prefixes. averaged: the names of those that are averages, or None if
    the file has no averages by name. unnamed_averages: averages without names, in the order of the trained parameters.
    metadata: of safetensors. weights: "EMA", "as trained" (the file has no averages) or "as saved" (it does not say).
    """

    path: Path
    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)
    averaged: frozenset[str] | None = None
    unnamed_averages: Sequence[Tensor] | None = None
    weights: str = "as saved"

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()


def find_network(path: Path, content: object, metadata: Mapping[str, str] | None = None) -> Contents:
    """The network in the content of a file, averaged if there are averages; raises CheckpointError."""
    if isinstance(content, list | tuple) and content and isinstance(content[0], dict):
        content = {"model": content[0], **({"ema": content[4]} if len(content) >= 5 else {})}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; {ACCEPTED}")
    content = without_lightnings_swap(content)
    state, wrapped = trained_state(content, set())
    counted = any(str(name).rpartition(".")[2] == AVERAGED_MODEL_COUNTER for name in state)
    trained, inside = split_by_prefix(path, plain_tensors(path, state))
    found = [*averages_in(path, content, state), *inside]
    if len(found) > 1:
        places = ", ".join(average.where for average in found)
        raise CheckpointError(f"{path}: holds several averages, {places}: save the one to use in a file of its own")
    if found:
        return with_averages(path, strip(trained), found[0], metadata or {})
    if not trained:
        raise CheckpointError(f"{path}: holds a {describe(content)}; {ACCEPTED}")
    weights = "EMA" if counted else "as trained" if wrapped else "as saved"
    return Contents(path, to_float32(strip(trained)), metadata or {}, weights=weights)


def without_lightnings_swap(content: dict[Any, Any]) -> dict[Any, Any]:
    """Lightning's WeightAveraging keeps averages as state_dict, and the trained weights as current_model_state."""
    if "averaging_state" not in content or "current_model_state" not in content:
        return content
    return {"state_dict": content["current_model_state"], "ema": content.get("state_dict")}


def with_averages(path: Path, trained: Tensors, averages: Averages, metadata: Mapping[str, str]) -> Contents:
    """The trained network with its averages in place; raises CheckpointError for averages of other shapes."""
    if isinstance(averages.tensors, list):
        if not trained:
            raise CheckpointError(f"{path}: {averages.where} has averages without names, and no network beside them")
        unnamed = [copy_to_float32(tensor) for tensor in averages.tensors]
        return Contents(path, to_float32(trained), metadata, unnamed_averages=unnamed, weights="EMA")
    dotless = {name.replace(".", ""): name for name in trained}  # Lightning's LitEma drops the dots
    averaged = {
        name if name in trained else dotless.get(name, name): tensor for name, tensor in strip(averages.tensors).items()
    }
    for name, tensor in averaged.items():
        if name in trained and trained[name].shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, the trained weight {list(trained[name].shape)}"
            raise CheckpointError(f"{path}: {averages.where}: the average of {name!r} has the shape {shapes}")
    tensors = to_float32({**trained, **averaged})
    return Contents(path, tensors, metadata, averaged=frozenset(averaged), weights="EMA")


def trained_state(content: dict[Any, Any], seen: set[int]) -> tuple[dict[Any, Any], bool]:
    """The dict that holds the trained network's tensors, and whether a wrapper was taken off.

    seen: the dicts that were looked into, by their identity: a dict may hold itself.
    """
    seen.add(id(content))
    for name in WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, dict) and id(inner) not in seen and len(seen) <= 8 * MAX_DEPTH:
            state, _ = trained_state(inner, seen)
            if state:
                return state, True
    return (content, False) if any(isinstance(value, Tensor) for value in content.values()) else ({}, False)


def describe(content: Mapping[Any, object]) -> str:
    """A dict in an error message: its first keys."""
    names = ", ".join(repr(str(name))[:60] for name in itertools.islice(content, 3))
    return f"dict of {names or 'nothing'}{', ...' if len(content) > 3 else ''}"
