"""Limits of Linux's control groups, versions 1 and 2: the processors and the memory that a container really has.

A limit of any group around this process counts. In a container, /proc/self/cgroup may name the host's path, which is
not visible inside; the mount's own root is then the container's group.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Root of the file system that is read; tests set another."""


def limit_processors() -> int | None:
    """Processors that the groups' quotas and sets allow, rounded up, at least 1; None if nothing limits them."""
    limits = [*map(math.ceil, _quotas()), *_set_sizes()]
    return max(1, min(limits)) if limits else None


def free_memory() -> int | None:
    """Bytes that this process may still take before a group's limit is reached; None if nothing limits it."""
    free = [limit - used for limit, used in _memory()]
    return max(0, min(free)) if free else None


def _quotas() -> Iterator[float]:
    """Processors' worth of time that each group around this process may use."""
    for folder in _folders("cpu"):
        quota, period = [*_words(folder / "cpu.max"), "", ""][:2]
        if not quota:
            quota = "".join(_words(folder / "cpu.cfs_quota_us"))
            period = "".join(_words(folder / "cpu.cfs_period_us"))
        if quota.isdigit() and period.isdigit() and int(period) > 0:  # "max" and "-1" are no limit
            yield int(quota) / int(period)


def _set_sizes() -> Iterator[int]:
    """Processors in each group's set."""
    for folder in _folders("cpuset"):
        for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
            ranges = re.findall(r"(\d+)(?:-(\d+))?", " ".join(_words(folder / name)))
            if ranges:
                yield sum(int(last or first) - int(first) + 1 for first, last in ranges)
                break


def _memory() -> Iterator[tuple[int, int]]:
    """Limit and use of each group that has a limit, in bytes; cached files, which can be dropped, are not used."""
    for folder in _folders("memory"):
        for limit_file, used_file, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = "".join(_words(folder / limit_file)), "".join(_words(folder / used_file))
            if limit.isdigit() and used.isdigit():
                words = _words(folder / "memory.stat")
                counts = dict(zip(words[::2], words[1::2], strict=False))
                yield int(limit), max(0, int(used) - int(counts.get(cached, "0")))


def _folders(controller: str) -> Iterator[Path]:
    """Folders of this process's groups of a controller, from the innermost up to the root of each mount."""
    paths = dict(_paths())
    for root, point, kind, options in _mounts():
        path = paths.get("") if kind == "cgroup2" else paths.get(controller) if controller in options else None
        if path is None:
            continue
        root = root.rstrip("/")
        visible = f"{path}/".startswith(f"{root}/") and ".." not in path.split("/")
        top = ROOT / point.strip("/")
        folder = top / path.removeprefix(root).strip("/") if visible else top
        while True:
            yield folder
            if folder == top:
                break
            folder = folder.parent


def _paths() -> Iterator[tuple[str, str]]:
    """Controller and path of each group of this process; version 2 has the controller ""."""
    for line in _lines(ROOT / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, path


def _mounts() -> Iterator[tuple[str, str, str, list[str]]]:
    """Root within the hierarchy, mount point, file system's type and options of each mount of control groups."""
    for line in _lines(ROOT / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, types = before.split(" "), after.split(" ")
        if len(fields) >= 5 and len(types) >= 3 and types[0] in ("cgroup", "cgroup2"):
            yield _unescaped(fields[3]), _unescaped(fields[4]), types[0], types[2].split(",")


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system, or a file that only other versions have
        return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()
