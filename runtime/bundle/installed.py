"""The models that come with the package. They are never changed: recipes name them by their hash."""

import os
from pathlib import Path

from sdedit.errors import BundleError

MODELS = Path(__file__).parent.parent / "models"
"""Folder of the models that come with the package."""

SHIPPED = MODELS / "earth64"
"""The model that is used unless another is asked for."""


def is_installed(path: Path) -> bool:
    """Whether the path is MODELS or leads into it, by whatever links and spelling; it need not exist.

    A model of the same name in a clone, while another copy of the package is installed, is the user's own.
    """
    real = Path(os.path.realpath(path))
    return any(is_same(folder, MODELS) for folder in (real, *real.parents))


def is_same(path: Path, other: Path) -> bool:
    """Whether both paths lead to one folder that exists."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def refuse_installed(path: Path) -> None:
    """Raise BundleError if a bundle at this path would be a change of the installed models."""
    if is_installed(path):
        raise BundleError(f"{path} is the installed model, which is never changed: give --out FOLDER")
