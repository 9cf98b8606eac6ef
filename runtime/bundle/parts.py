"""Parts of a bundle: folders that a target may need besides, each with a manifest of its own, all read here one way."""

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sdedit.errors import BundleError

from .files import MANIFEST
from .installed import is_installed
from .reading import Bundle
from .records import Problems

T = TypeVar("T")


def read_part(bundle: Bundle, name: str, parse: Callable[[Any, Problems], T | None]) -> T | None:
    """The part whose manifest is the bundle's file `name`, as `parse` makes it; None if the bundle has no such part.

    Raises one BundleError that names every problem.
    """
    if name not in bundle.manifest.files:
        return None
    problems = Problems()
    try:
        part = parse(json.loads(bundle.read(name)), problems)
    except (ValueError, RecursionError):
        raise BundleError(f"bundle {bundle.path}: {name} is damaged: it is not valid JSON") from None
    if part is None or problems:
        raise BundleError(f"bundle {bundle.path}: {name} is damaged: {problems}")
    return part


def require_listed(bundle: Bundle, name: str, files: Iterable[str]) -> None:
    """Raise BundleError unless the bundle's manifest lists all files that the part's manifest `name` names."""
    for file in files:
        if file not in bundle.manifest.files:
            raise BundleError(f"bundle {bundle.path}: {name} names {file!r}, which {MANIFEST} does not list")


def extend_command(bundle: Bundle, option: str) -> str:
    """The command that adds a part to the bundle. The installed model is not changed: it becomes a new bundle."""
    new = " --out NEW" if is_installed(bundle.path) else ""
    return f"sdedit extend {bundle.path} {option}{new}"
