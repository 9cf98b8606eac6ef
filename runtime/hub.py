"""Models by name: files of the Hugging Face Hub, through the package huggingface_hub.

A name is `hf:OWNER/NAME`, `hf:OWNER/NAME/FILE`, either with `@REVISION` (a branch, a tag or a commit) at its end. The
package keeps what it downloads in its own cache, resumes what was cut, and shows progress on a terminal. Only listed
files are downloaded, their hashes are compared with those that the Hub lists, and none is executed. A bundle that was
downloaded before opens without a network.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdedit.errors import HubError, install_hint, raise_interrupt, reason, shown

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

PREFIX = "hf:"
ACCEPTED = "accepted is hf:OWNER/NAME, or hf:OWNER/NAME/FILE, with @REVISION at its end where one is wanted"
PART = re.compile(r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?")
"""An owner, or a model's name. The Hub allows fewer; it says so itself."""

CHUNK_BYTES = 1 << 20

Choose = Callable[[list[str]], Iterable[str]]
"""Given the names of a model's files, returns those to download. May raise SdeditError."""


@dataclass(frozen=True)
class HubName:
    """A model on the Hub, or one of its files. revision: None stands for its main branch."""

    model: str
    file: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        file = f"/{self.file}" if self.file else ""
        revision = f"@{self.revision}" if self.revision else ""
        return f"{PREFIX}{self.model}{file}{revision}"


def is_hub_name(source: Any) -> bool:
    """Whether a path, as a user gave it, names a model of the Hub."""
    try:
        return os.fsdecode(source).startswith(PREFIX)
    except TypeError:
        return False


def parse_hub_name(source: str | os.PathLike[str]) -> HubName:
    """The model that the name stands for; raises HubError for what is no such name."""
    text = os.fsdecode(source)
    name, at, revision = text.removeprefix(PREFIX).partition("@")
    owner, _, rest = name.partition("/")
    model, slash, file = rest.partition("/")
    named = PART.fullmatch(owner) and PART.fullmatch(model)
    if not named or (at and not revision) or (slash and not is_plain(file)):
        raise HubError(f"{shown(text)} is no name of a model on the Hub: {ACCEPTED}")
    return HubName(f"{owner}/{model}", file or None, revision or None)


def is_plain(file: str) -> bool:
    """Whether the path of a file stays inside its folder."""
    return not any(part in ("", ".", "..") for part in file.split("/")) and "\\" not in file


def download(name: HubName, choose: Choose) -> Path:
    """The folder that holds the chosen files of a model, in huggingface_hub's cache; or the one file that is named.

    Without a network, an earlier download of this revision is used. Raises HubError.
    """
    api = hub()
    with told(name):
        files = list_files(api, name)
        chosen = [name.file] if name.file else sorted(choose(sorted(files)))
        if name.file and name.file not in files:
            raise HubError(f"{name}: the model has no such file")
        folder = fetch(name, chosen)
        for file in chosen:
            if (entry := files[file]) is not None:
                verify_download(name, folder / file, entry)
    return folder / name.file if name.file else folder


def list_files(api: "HfApi", name: HubName) -> "dict[str, RepoSibling | None]":
    """The model's files by name. Without a network: those of an earlier download, and None for each."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        found = api.model_info(name.model, revision=name.revision, files_metadata=True).siblings or []
    except (OfflineModeIsEnabled, connection_error()):
        folder = fetch(name, [], local_files_only=True)
        return {path.relative_to(folder).as_posix(): None for path in folder.rglob("*") if path.is_file()}
    return {entry.rfilename: entry for entry in found if is_plain(entry.rfilename)}


def fetch(name: HubName, files: list[str], *, local_files_only: bool = False) -> Path:
    """Download files; returns the folder of the revision. Without a network the cache serves. Raises many types."""
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name.model,
            revision=name.revision,
            allow_patterns=[escaped(file) for file in files] or ["no file"],
            local_files_only=local_files_only,
            library_name="sdedit",
            tqdm_class=terminal_bar(),
        )
    )


def terminal_bar() -> Any:
    """The client's progress bar, which shows itself on a terminal only."""
    from huggingface_hub.utils import tqdm

    class TerminalBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": not terminal()})

    return TerminalBar


def terminal() -> bool:
    """Whether a person reads stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def escaped(file: str) -> str:
    """The file's name as a pattern that matches no other: huggingface_hub takes patterns of fnmatch."""
    return re.sub(r"([*?[])", r"[\1]", file)


def verify_download(name: HubName, path: Path, entry: "RepoSibling") -> None:
    """Raise HubError unless the file has the size and the hash that the Hub lists; one that has not is deleted."""
    expected = entry.blob_id if entry.lfs is None else entry.lfs.sha256
    digest = hashlib.sha256()
    if entry.lfs is None:  # git's name of the content
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        path.resolve().unlink()  # in the cache; a link to nothing is downloaded anew
        raise HubError(f"{name}: {entry.rfilename} was downloaded with other bytes than the Hub lists: try again")


def download_bundle(source: str | os.PathLike[str], manifest: str) -> Path:
    """The folder of a bundle on the Hub, with the files that its manifest lists; raises HubError.

    manifest: name of the file that lists them.
    """
    name = parse_hub_name(source)
    if name.file is not None:
        raise HubError(f"{name}: a bundle is a whole model; accepted is hf:OWNER/NAME")

    def only_manifest(files: list[str]) -> list[str]:
        if manifest not in files:
            raise HubError(f"{name} is no bundle, for it has no {manifest}: `sdedit export {name}` makes one of it")
        return [manifest]

    folder = download(name, only_manifest)
    try:
        listed = set(json.loads((folder / manifest).read_bytes())["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return folder  # reading the bundle says what is wrong
    return download(name, lambda files: [manifest, *listed.intersection(files)])


def push(folder: Path, files: Iterable[str], source: str) -> str:
    """Upload a folder's files to the Hub in one commit; returns the commit's address.

    A model that does not exist is made, private. Raises HubError.
    """
    name = parse_hub_name(source)
    if name.file is not None:
        raise HubError(f"{name}: a bundle is pushed as a whole model; accepted is hf:OWNER/NAME")
    api = hub()
    with told(name), quiet_without_terminal():
        api.create_repo(name.model, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name.model,
            folder_path=folder,
            allow_patterns=[escaped(file) for file in files],
            revision=name.revision,
            commit_message="Upload a bundle of sdedit",
        )
    return str(commit.commit_url)


def hub() -> "HfApi":
    """The Hub's client; raises HubError if its package is missing."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise_interrupt(error)
        raise HubError(f"names of models on the Hub need the package huggingface_hub: {install_hint('hub')}") from None
    return HfApi(library_name="sdedit")


def connection_error() -> type[Exception]:
    """The error that the client's HTTP library raises when the Hub cannot be reached, or not in time."""
    import httpx2

    return httpx2.TransportError


@contextmanager
def quiet_without_terminal() -> Iterator[None]:
    """Uploads have no progress bar of the caller's: switch the client's off, unless a person reads stderr."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if terminal() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextmanager
def told(name: HubName) -> Iterator[None]:
    """Turn the client's errors into one HubError, which says what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        page = f"https://huggingface.co/{name.model}"
        raise HubError(f"{name} is gated: accept its terms at {page}, then log in with `hf auth login`") from None
    except RepositoryNotFoundError:
        raise HubError(f"{name}: the Hub has no such model, or it is private: log in with `hf auth login`") from None
    except RevisionNotFoundError:
        raise HubError(f"{name}: the model has no revision {name.revision or 'main'}") from None
    except (LocalTokenNotFoundError, HFValidationError) as error:
        raise HubError(f"{name}: {reason(error)}") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, connection_error()) as error:
        raise HubError(f"{name}: the Hub cannot be reached{cause(error)}, and its files are not in the cache") from None
    except HfHubHTTPError as error:
        raise HubError(f"{name}: the Hub refused: {reason(error)}") from None
    except OSError as error:  # a full disk, a cache that may not be written, a download of the wrong size
        raise HubError(f"{name} cannot be downloaded: {reason(error)}") from None


def cause(error: BaseException | None) -> str:
    """Why the Hub cannot be reached, in parentheses, where the HTTP library says it."""
    while error is not None and not isinstance(error, connection_error()):
        error = error.__cause__ or error.__context__
    return f" ({reason(error)})" if isinstance(error, Exception) else ""
