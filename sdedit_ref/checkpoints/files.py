"""Read files of tensors. The bytes show the container, wrappers are taken off, and no code in a file is run."""

import hashlib
import itertools
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdedit.errors import CheckpointError, reason

MAX_HEADER_BYTES = 100_000_000

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
"""Names under which training scripts keep a network, in the order of the search."""

EMA_WRAPPERS = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema")
"""Names under which they keep its exponential moving average."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes that torch's wrappers and training scripts put before every name."""

ACCEPTED = (
    "accepted is a dict of float tensors by name, alone or under state_dict, model or ema, or the list "
    "[model, optimizer, epoch, step, ema]"
)


@dataclass(frozen=True)
class Contents:
    """The contents of a file that belong to one network.

    tensors: float32 on the CPU, by bare name; averaged tensors if the file has them by name. shadow: averaged tensors
    without names, in the order of the network's trained parameters (score_sde). metadata: the file's, if safetensors.
    weights: "EMA" or "as trained"; it describes `tensors`.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    shadow: Sequence[Tensor] | None = None
    weights: str = "as trained"

    @cached_property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def read_contents(path: Path) -> Contents:
    """Read a safetensors or torch file without running code in it; raises CheckpointError."""
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):  # reading a pipe would wait
            raise CheckpointError(f"{path} is no file")
        with path.open("rb") as file:
            head = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a null character in the name
        raise CheckpointError(f"{str(path)!r} cannot be read: {reason(error)}") from None
    if is_safetensors(head, size):
        return _read_safetensors(path)
    if head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
        return unwrap(path, _read_torch(path))
    raise CheckpointError(f"{path} is neither a safetensors nor a torch file; it begins with {head[:8]!r}")


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file begins like safetensors: eight bytes of header size, then a JSON object."""
    header = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and 2 <= header <= min(size - 8, MAX_HEADER_BYTES)


def unwrap(path: Path, content: Any) -> Contents:
    """Find the network in the object of a torch file, averaged weights first; raises CheckpointError."""
    if isinstance(content, list | tuple) and content and isinstance(content[0], dict):
        content = {"model": content[0], **({"ema": content[4]} if len(content) >= 5 else {})}
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; {ACCEPTED}")
    trained = next((found for found in (tensors_of(content.get(name)) for name in WRAPPERS) if found), None)
    averaged = next((content[name] for name in EMA_WRAPPERS if name in content), None)
    by_name = tensors_of(averaged)
    if by_name:
        return Contents(path, _float32({**strip(trained or {}), **strip(by_name)}), weights="EMA")
    if trained:
        return Contents(path, _float32(strip(trained)), shadow=_shadow(averaged))
    flat = tensors_of(content)
    if flat is None:
        raise CheckpointError(f"{path}: holds a {_describe(content)}; {ACCEPTED}")
    return Contents(path, _float32(strip(flat)))


def tensors_of(value: object) -> dict[str, Tensor] | None:
    """Float tensors by name, with one more wrapper taken off; None if the value is anything else, or empty."""
    if isinstance(value, dict) and isinstance(value.get("state_dict"), dict):
        value = value["state_dict"]
    if not isinstance(value, dict) or not value or not all(map(_is_plain, value.values())):
        return None
    return {str(key): tensor for key, tensor in value.items()} if _fits(value.values()) else None


def _fits(tensors: Collection[Tensor]) -> bool:
    """Whether the tensors hardly share memory: copies of many views of one tensor could be far larger than the file."""
    once = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= 4 * sum(once.values())


def strip(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by name, without the PREFIXES that all names have."""
    for prefix in itertools.chain(PREFIXES, PREFIXES):  # one prefix may follow another
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _shadow(averaged: object) -> list[Tensor] | None:
    """score_sde's list of averaged parameters; None if there is none."""
    shadow = averaged.get("shadow_params") if isinstance(averaged, dict) else None
    if not isinstance(shadow, list) or not shadow or not all(map(_is_plain, shadow)):
        return None
    return [_copy(tensor) for tensor in shadow]


def _read_safetensors(path: Path) -> Contents:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: _copy(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return Contents(path, strip(tensors), dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {reason(error)}") from None


def _read_torch(path: Path) -> Any:
    _refuse_compressed(path)
    try:
        with _numbers_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of strange pickles in several lines
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: not a torch file of tensors alone, or damaged: {_why(error)}") from None
    except Exception as error:  # torch.load raises a dozen types for damaged files
        raise CheckpointError(f"{path}: not a torch file of tensors alone, or damaged: {reason(error)}") from None


def _refuse_compressed(path: Path) -> None:
    """Refuse compressed archives: a small file must not unpack to a large one, and torch never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except Exception:  # a legacy or damaged file: torch says which
        return
    if compressed:
        raise CheckpointError(f"{path}: a compressed archive; a torch file is accepted, which is not compressed")


def _numbers_allowed() -> AbstractContextManager[None]:
    """Allow numpy's scalars, which training scripts save as steps and losses: they are numbers, not code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    named: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return torch.serialization.safe_globals([*named, np.dtype, *types])


def _why(error: pickle.UnpicklingError) -> str:
    """The code that the file asks for, in our words; torch's message advises to run it."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"it asks for {asked.group(1)}" if asked else "it is pickled in a way that tensors alone do not need"
    return f"{what}, and no code that a file names is run: save its state_dict() where you trust it"


def _describe(content: dict[Any, Any]) -> str:
    names = ", ".join(repr(str(name))[:60] for name in itertools.islice(content, 3))
    return f"dict of {names or 'nothing'}{', ...' if len(content) > 3 else ''}"


def _is_plain(value: object) -> bool:
    """Whether it is a float tensor with all its numbers in the file: a view of few can claim terabytes."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout is not torch.strided:
        return False
    return not value.is_meta and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _float32(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(value: Tensor) -> Tensor:
    """Copy to float32 in aligned memory: torch's results depend on the alignment, which differs by container."""
    return value.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
