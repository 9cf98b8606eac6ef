"""Files and memory of this machine, as checkpoints and training need to know them."""

import os
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def why_unreadable(path: Path) -> str:
    """Why a path is not opened, as the end of a sentence; "" for a file, a folder, and a path that does not exist.

    Opening a pipe would wait for a writer, and a device may have no end. Raises OSError and ValueError.
    """
    return "is not a file" if path.exists() and not (path.is_file() or path.is_dir()) else ""


def memory_bytes() -> int:
    """Bytes of memory that this process may use at most: the machine's, or its container's limit."""
    limits = [2**63]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for name in CGROUP_LIMITS:
        try:
            limits.append(int(Path(name).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(limits)
