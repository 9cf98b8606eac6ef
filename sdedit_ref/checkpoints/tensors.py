"""Tensors of a file by name: counters are left out, and what is no plain float tensor is refused."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdedit.errors import CheckpointError

Tensors = dict[str, Tensor]

FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
FLOATS |= {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}

PREFIXES = ("module.", "_orig_mod.", "model.", "online_model.")
"""Prefixes that torch's wrappers and training scripts give to every name."""

ACCEPTED = (
    "accepted is a dict of float tensors by name, alone or under state_dict, model or ema, or the list "
    "[model, optimizer, epoch, step, ema]"
)


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


def printable_key(key: str) -> str:
    """A key in an error message."""
    return key if len(key) <= 60 and key.isprintable() else repr(key)[:60]


def to_float32(tensors: Tensors) -> Tensors:
    """Copies in float32."""
    return {name: copy_to_float32(tensor) for name, tensor in tensors.items()}


def copy_to_float32(value: Tensor) -> Tensor:
    """A copy in aligned memory: torch's results depend on the alignment, and the file's differs by container."""
    return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
