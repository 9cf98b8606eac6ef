"""Reading checkpoint files: the first bytes show the container, and no code stored in a file is run."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from sdedit.errors import CheckpointError, git_lfs_hint, reason

from ..storage import memory_bytes, why_unreadable
from .contents import Contents, find_network
from .pickles import RefusedError, check_pickle

MAX_HEADER_BYTES = 100_000_000

HEAD_BYTES = 64
"""Bytes at the start of a file that show its container."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""An owner, or a model, of the Hugging Face Hub."""

ZIP_START = b"PK\x03\x04"
PICKLE_START = b"\x80"

LEGACY_PICKLES = 5
"""Pickles at the start of a file of torch before 1.6: magic number, version, system, object, and keys of storages."""

NOT_TORCH = "not a torch file of tensors alone, or damaged"


def read_contents(path: Path) -> Contents:
    """Read a safetensors or torch file; raises CheckpointError, and runs no code."""
    try:
        problem = why_unreadable(path)
        if problem:
            raise CheckpointError(f"{path} {problem}")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}{hub_hint(path)}") from None
    except ValueError as error:  # a null character in the name
        raise CheckpointError(f"{str(path)!r} cannot be read: {reason(error)}") from None
    if size > memory_bytes():
        raise CheckpointError(f"{path} has {size / 1e9:.1f} GB, more than this machine's memory")
    if is_safetensors(head[:9], size):
        check_encodable(path)
        return find_network(path, *read_safetensors(path))
    if head.startswith((ZIP_START, PICKLE_START)):
        return find_network(path, read_torch(path, head, size))
    hint = git_lfs_hint(head) or f"; it begins with {head[:8]!r}"
    raise CheckpointError(f"{path} is neither a safetensors nor a torch file{hint}")


def hub_hint(path: Path) -> str:
    """The end of a message about a path that cannot be read: not empty for a name as the Hugging Face Hub has them."""
    if len(path.parts) != 2 or path.parent.exists() or not all(HUB_NAME.fullmatch(part) for part in path.parts):
        return ""
    return f"; if it is a model of the Hugging Face Hub, name it hf:{path.as_posix()}"


def check_encodable(path: Path) -> None:
    """Raise CheckpointError for a path that safetensors cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{path}: safetensors opens only paths in UTF-8: rename the file or its folder") from None


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether it begins with eight bytes of header size and a JSON object."""
    header = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and 2 <= header <= min(size - 8, MAX_HEADER_BYTES)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata; raises CheckpointError."""
    with damage_told(path, "damaged safetensors file"), safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_torch(path: Path, head: bytes, size: int) -> Any:
    """The object in a torch file: tensors, numbers, and containers of these; raises CheckpointError."""
    with damage_told(path, NOT_TORCH):
        if head.startswith(ZIP_START):
            check_archive(path, size)
        else:
            with path.open("rb") as file:
                for _ in range(LEGACY_PICKLES):
                    check_pickle(file, size)
        with numbers_allowed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of strange pickles, in several lines
            return torch.load(path, map_location="cpu", weights_only=True)


def check_archive(path: Path, size: int) -> None:
    """Raise CheckpointError unless the archive holds its entries uncompressed and once, and its pickle is safe to load.

    torch never compresses. A small file must not unpack to a large one.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries
        ):
            raise CheckpointError(f"{path}: a compressed archive; a torch file is accepted, which is not compressed")
        names = [entry.filename.lower() for entry in entries]  # torch ignores case
        if len(set(names)) < len(names) or sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{path}: damaged: its archive holds parts of the file twice")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):
                with archive.open(entry) as file:
                    check_pickle(file, size)  # type: ignore[arg-type] # it reads bytes and lines, which is enough


@contextmanager
def damage_told(path: Path, what: str) -> Iterator[None]:
    """Turn every failure of a library that reads the file into one CheckpointError."""
    try:
        yield
    except CheckpointError:
        raise
    except RefusedError as error:
        raise CheckpointError(f"{path}: {what}: {error}: save its state_dict() where you trust it") from None
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: {what}: {why(error)}") from None
    except MemoryError:
        raise CheckpointError(f"{path}: not enough memory for its {path.stat().st_size / 1e9:.1f} GB") from None
    except Exception as error:  # damaged files raise a dozen types in torch and safetensors
        if "can't allocate memory" in str(error):
            raise CheckpointError(f"{path}: not enough memory: {reason(error)}") from None
        raise CheckpointError(f"{path}: {what}: {reason(error)}") from None


def numbers_allowed() -> AbstractContextManager[None]:
    """Let torch load numpy's single numbers, which training scripts save as steps and losses."""
    scalar: Any = np.float64(0).__reduce__()[0]
    types = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    named: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return torch.serialization.safe_globals([*named, np.dtype, *types])


def why(error: pickle.UnpicklingError) -> str:
    """The reason without torch's own advice, which is to run the file's code."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    what = f"it asks for {asked.group(1)}" if asked else "it is pickled in a way that tensors alone do not need"
    return f"{what}, and no code that a file names is run: save its state_dict() where you trust it"
