"""Where this package remembers things for the user, and how a file gets there: complete or not at all."""

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """SDEDIT_CACHE, or the platform's place for caches."""
    if named := os.environ.get("SDEDIT_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "sdedit"  # noqa: PTH111 - Path.expanduser raises where there is no home
