"""Where this package remembers things for the user, and how a file gets there: complete or not at all."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from sdedit.errors import SdeditError, reason

from .once import warn_once

VARIABLE = "SDEDIT_CACHE"
"""Environment variable that names the folder."""


def cache_folder() -> Path | None:
    """The folder in SDEDIT_CACHE, or the platform's place for caches; None if this user has no home folder."""
    import platformdirs

    named = os.environ.get(VARIABLE)
    try:
        expanded = Path(named or platformdirs.user_cache_dir("sdedit", appauthor=False)).expanduser()
    except RuntimeError:  # there is no home folder; some versions of platformdirs raise, others return "~/..."
        return None
    return expanded if named or expanded.is_absolute() else None


def read_cached(name: str) -> bytes | None:
    """A file of the cache; None if there is none, or it cannot be read."""
    folder = cache_folder()
    try:
        return None if folder is None else (folder / name).read_bytes()
    except OSError:
        return None


def write_cached(name: str, data: bytes) -> Path | None:
    """Write a file of the cache, complete or not at all; returns its path, or None after a warning, given once."""
    folder = cache_folder()
    if folder is None:
        warn_once(f"nothing is remembered: this user has no home folder; set {VARIABLE} to a folder")
        return None
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as opened:
            temporary = Path(opened.name)
            opened.write(data)
        temporary.replace(folder / name)
    except BaseException as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        warn_once(f"{folder} cannot be written, nothing is remembered: {reason(error)}")
        return None
    return folder / name


def delete_cached(name: str) -> Path | None:
    """Delete a file of the cache; returns its path, or None if there was none. Raises SdeditError."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        (folder / name).unlink()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SdeditError(f"{folder / name} cannot be deleted: {reason(error)}") from None
    return folder / name
