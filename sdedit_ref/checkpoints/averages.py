"""Averaged weights in a file: training scripts keep them in many places, and all of them are looked for."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sdedit.errors import CheckpointError

from .tensors import Tensors, is_counter, list_of_tensors, plain_tensors, printable_key

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

MAX_DEPTH = 8
"""Depth to which a file's dicts are searched."""


@dataclass(frozen=True)
class Averages:
    """Averages in a file. where: their keys. tensors: by name, or a list without names."""

    where: str
    tensors: Tensors | list[Tensor]


def averages_in(path: Path, content: dict[Any, Any], trained: dict[Any, Any]) -> list[Averages]:
    """All averages outside the dict `trained`; raises CheckpointError if an entry for averages has no tensors."""
    found: list[Averages] = []
    empty = ""
    for where, value in average_entries(content, trained):
        inner = averages_of(path, value, where, set())
        found += inner
        if not inner and isinstance(value, dict | list | tuple) and has_content(value):
            empty = where
    if empty and not found:
        raise CheckpointError(f"{path}: {empty} should hold averaged weights, but has no float tensors")
    return found


def average_entries(content: dict[Any, Any], trained: dict[Any, Any]) -> Iterator[tuple[str, object]]:
    """Entries whose keys say that they hold averages, with their keys from the top, and loose tensors of such names."""
    waiting: list[tuple[str, dict[Any, Any], int]] = [("", content, 0)]
    seen = {id(content)}  # a dict may be in the file many times, or in itself
    yielded: set[int] = set()
    while waiting:
        trail, entries, depth = waiting.pop()
        loose = {
            k: v for k, v in entries.items() if isinstance(v, Tensor) and means_average(str(k)) and not is_counter(v)
        }
        if loose and entries is not trained:  # find_network looks into that one itself
            yield trail.removesuffix("."), loose
        for key, value in entries.items():
            if not isinstance(key, str) or words(key) & OTHER_WORDS or not isinstance(value, dict | list | tuple):
                continue
            where = f"{trail}{printable_key(key)}"
            if means_average(key):
                if id(value) not in yielded:
                    yielded.add(id(value))
                    yield where, value
            elif isinstance(value, dict) and depth < MAX_DEPTH and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{where}.", value, depth + 1))


def averages_of(path: Path, value: object, where: str, seen: set[int], depth: int = 0) -> list[Averages]:
    """The averages in an entry. seen: the containers that were looked into, by their identity."""
    if id(value) in seen or depth > MAX_DEPTH:
        return []
    seen.add(id(value))
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
    chosen = [key for key in nested if means_average(key)] or list(nested)
    found = (averages_of(path, nested[key], f"{where}.{printable_key(key)}", seen, depth + 1) for key in chosen)
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
