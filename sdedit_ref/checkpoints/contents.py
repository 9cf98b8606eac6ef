"""The network in a file's content: wrappers are taken off, and averaged weights come before trained ones.

Training scripts keep averages (EMA) in many places. All of them are looked for. The rule: the averages are used whole,
or an error names the odd entry. A file with averages never loads as trained, and no trained parameter is mixed in.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdedit.errors import CheckpointError

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "unet", "params", "module")
"""Keys of a network in training scripts' files, in the order in which they are looked for."""

AVERAGE_WORDS = frozenset(
    {"average", "averaged", "averages", "averaging", "modelema", "netema", "polyak", "shadow", "swa"}
)
"""Words in the keys of averages, besides those that begin with `ema`."""

WRAPPER_WORDS = frozenset({"dict", "g", "model", "module", "net", "network", "params", "state", "unet", "weights"})
"""Words that may stand beside them in the prefix of a tensor's name."""

OTHER_WORDS = frozenset(
    {"args", "cfg", "config", "hparams", "hyper", "kwargs", "loss", "lr", "opt", "optim", "optimizer", "optimizers"}
    | {"options", "scaler", "scheduler", "schedulers"}
)
"""Words in the keys of entries that hold no network."""

UNAVERAGED_WORDS = frozenset({"backup", "collected", "online", "original", "stored"})
"""Words in the keys of trained weights beside averages."""

PREFIXES = ("module.", "_orig_mod.", "model.", "online_model.")
"""Prefixes that torch's wrappers and training scripts give to every name."""

AVERAGED_MODEL_COUNTER = "n_averaged"
"""A key that torch.optim.swa_utils.AveragedModel writes beside its averages."""

MAX_DEPTH = 8
"""Depth to which a file's dicts are searched."""

ACCEPTED = (
    "accepted is a dict of float tensors by name, alone or under state_dict, model or ema, or the list "
    "[model, optimizer, epoch, step, ema]"
)

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
FLOATS |= {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}

Tensors = dict[str, Tensor]


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


@dataclass(frozen=True)
class Averages:
    """Averages in a file. where: their keys. tensors: by name, or a list without names."""

    where: str
    tensors: Tensors | list[Tensor]


def find_network(path: Path, content: object, metadata: Mapping[str, str] | None = None) -> Contents:
    """The network in the content of a file, averaged if there are averages; raises CheckpointError."""
    if isinstance(content, list | tuple) and content and isinstance(content[0], dict):
        content = {"model": content[0], **({"ema": content[4]} if len(content) >= 5 else {})}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; {ACCEPTED}")
    content = without_lightnings_swap(content)
    state, wrapped = trained_state(path, content)
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


def trained_state(path: Path, content: dict[Any, Any], depth: int = 0) -> tuple[dict[Any, Any], bool]:
    """The dict that holds the trained network's tensors, and whether a wrapper was taken off."""
    for name in WRAPPERS:
        inner = content.get(name)
        if isinstance(inner, dict) and inner and depth < MAX_DEPTH:
            state, _ = trained_state(path, inner, depth + 1)
            if state:
                return state, True
    return (content, False) if any(isinstance(value, Tensor) for value in content.values()) else ({}, False)


def averages_in(path: Path, content: dict[Any, Any], trained: dict[Any, Any]) -> list[Averages]:
    """All averages outside the dict `trained`; raises CheckpointError if an entry for averages has no tensors."""
    found: list[Averages] = []
    empty = ""
    for where, value in average_entries(content, trained):
        inner = averages_of(path, value, where)
        found += inner
        if not inner and isinstance(value, dict | list | tuple) and has_content(value):
            empty = where
    if empty and not found:
        raise CheckpointError(f"{path}: {empty} should hold averaged weights, but has no float tensors")
    return found


def average_entries(content: dict[Any, Any], trained: dict[Any, Any]) -> Iterator[tuple[str, object]]:
    """Entries whose keys say that they hold averages, with their keys from the top, and loose tensors of such names."""
    waiting: list[tuple[str, dict[Any, Any], int]] = [("", content, 0)]
    seen = {id(content)}  # a dict may be in the file twice, or in itself
    while waiting:
        trail, entries, depth = waiting.pop()
        if entries is trained:
            continue
        loose = {
            k: v for k, v in entries.items() if isinstance(v, Tensor) and means_average(str(k)) and not is_counter(v)
        }
        if loose:
            yield trail.removesuffix("."), loose
        for key, value in entries.items():
            if not isinstance(key, str) or words(key) & OTHER_WORDS or not isinstance(value, dict | list | tuple):
                continue
            where = f"{trail}{printable_key(key)}"
            if id(value) in seen:
                continue
            seen.add(id(value))
            if means_average(key):
                yield where, value
            elif isinstance(value, dict) and depth < MAX_DEPTH:
                waiting.append((f"{where}.", value, depth + 1))


def averages_of(path: Path, value: object, where: str, depth: int = 0) -> list[Averages]:
    """The averages in an entry; raises CheckpointError if it has several kinds of them."""
    if isinstance(value, list | tuple):
        tensors = [item for item in value if isinstance(item, Tensor)]
        if tensors:
            return [Averages(where, list_of_tensors(path, value, where))]
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return []
    named = plain_tensors(path, value)
    if named:
        _, inside = split_by_prefix(path, named, where)
        return inside or [Averages(where, named)]
    nested = {
        str(key): inner
        for key, inner in value.items()
        if isinstance(inner, dict | list | tuple) and not words(str(key)) & (OTHER_WORDS | UNAVERAGED_WORDS)
    }
    if depth >= MAX_DEPTH:
        return []
    chosen = [key for key in nested if means_average(key)] or list(nested)
    found = (averages_of(path, nested[key], f"{where}.{printable_key(key)}", depth + 1) for key in chosen)
    return [averages for inner in found for averages in inner]


def split_by_prefix(path: Path, tensors: Tensors, where: str = "") -> tuple[Tensors, list[Averages]]:
    """Tensors without an average's prefix, such as `ema_model.`, and groups of those that have one, without it."""
    others: Tensors = {}
    groups: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        *prefixes, _ = name.split(".")
        at = next((index for index, part in enumerate(prefixes) if means_average(part)), None)
        if at is None and not means_average(name):
            others[name] = tensor
        elif at is None or not all(is_average_word(word) or word in WRAPPER_WORDS for word in words(prefixes[at])):
            raise CheckpointError(f"{path}: {name[:80]!r} seems to be an average; `ema.` before all names is accepted")
        else:
            prefix = ".".join(prefixes[: at + 1])
            groups.setdefault(prefix, {})[name.removeprefix(f"{prefix}.")] = tensor
    start = f"{where}." if where else ""
    return others, [Averages(f"{start}{printable_key(prefix)}", group) for prefix, group in groups.items()]


def plain_tensors(path: Path, state: Mapping[Any, object]) -> Tensors:
    """The float tensors of a dict by name, without counters. Raises CheckpointError for tensors of other kinds."""
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor) and not is_counter(value)}
    for name, tensor in tensors.items():
        check_plain(path, name, tensor)
    if not fits(list(tensors.values())):
        raise CheckpointError(f"{path}: its tensors are many views of the same numbers; {ACCEPTED}")
    return tensors


def list_of_tensors(path: Path, values: Sequence[object], where: str) -> list[Tensor]:
    """The values, if all are plain float tensors; raises CheckpointError."""
    tensors: list[Tensor] = []
    for index, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: entry {index} of {where} is not a float tensor")
        check_plain(path, f"{where}[{index}]", value)
        tensors.append(value)
    if not fits(tensors):
        raise CheckpointError(f"{path}: the tensors of {where} are many views of the same numbers; {ACCEPTED}")
    return tensors


def is_counter(value: Tensor) -> bool:
    """Whether it is no weight: integers or booleans, such as num_batches_tracked, or a single number, such as decay."""
    if value.is_quantized or value.is_complex() or value.layout is not torch.strided:
        return False
    return not value.is_floating_point() or value.ndim == 0


def check_plain(path: Path, name: str, value: Tensor) -> None:
    """Raise CheckpointError unless it is a dense float tensor that the file holds: a view may seem to be terabytes."""
    kind = ""
    if value.dtype not in FLOATS:
        kind = f"of type {str(value.dtype).removeprefix('torch.')}"
    elif value.layout is not torch.strided:
        kind = "sparse"
    elif value.is_meta or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        kind = "larger than its data in the file"
    if kind:
        raise CheckpointError(f"{path}: tensor {name[:80]!r} is {kind}; {ACCEPTED}")


def fits(tensors: Sequence[Tensor]) -> bool:
    """Whether copies of the tensors take at most four times the memory of the file: many may be views of one."""
    once = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= 4 * sum(once.values())


def strip(tensors: Tensors) -> Tensors:
    """Names without the PREFIXES that all of them have."""
    for prefix in itertools.chain(PREFIXES, PREFIXES):  # one may hide behind another
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def words(key: str) -> set[str]:
    """The words of a key in lower case: `ema_0.9999` -> ema; `EMAModel` -> ema, model."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", key[:200])}


def is_average_word(word: str) -> bool:
    return word in AVERAGE_WORDS or word.startswith("ema")


def means_average(key: str) -> bool:
    """Whether a key says that it holds averages."""
    return any(map(is_average_word, words(key)))


def has_content(value: Mapping[Any, object] | Sequence[object]) -> bool:
    """Whether a container holds more than numbers: lists of decays are no averages."""
    return bool(value) if isinstance(value, Mapping) else any(isinstance(item, dict | list | tuple) for item in value)


def printable_key(key: str) -> str:
    """A key in an error message."""
    return key if len(key) <= 60 and key.isprintable() else repr(key)[:60]


def describe(content: Mapping[Any, object]) -> str:
    """A dict in an error message: its first keys."""
    names = ", ".join(repr(str(name))[:60] for name in itertools.islice(content, 3))
    return f"dict of {names or 'nothing'}{', ...' if len(content) > 3 else ''}"


def to_float32(tensors: Tensors) -> Tensors:
    """Copies in float32."""
    return {name: copy_to_float32(tensor) for name, tensor in tensors.items()}


def copy_to_float32(value: Tensor) -> Tensor:
    """A copy in aligned memory: torch's results depend on the alignment, and the file's differs by container."""
    return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
