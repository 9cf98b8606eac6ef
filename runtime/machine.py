"""This machine's processor, and the processors and the memory that this process may really use."""

import ctypes
import os
import platform
from contextlib import suppress
from pathlib import Path

from sdedit.errors import EngineError, raise_interrupt

from .cgroups import free_memory, limit_processors

FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Linux's names of the features that decide an engine's speed: the first five on x86-64, the last two on arm64."""


def available_processors() -> int:
    """Processors that this process may use: its affinity, and the quotas and sets of its control groups; at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = limit_processors()
    return count if limit is None else min(count, limit)


def available_memory() -> int | None:
    """Bytes that this process may still allocate; None if the operating system does not tell."""
    limits = [limit for limit in (_free_memory(), free_memory(), _free_addresses()) if limit is not None]
    return min(limits) if limits else None


def check_memory(what: str, count: int, each: int) -> None:
    """Raise EngineError if this process has no memory for `count` things of `each` bytes, which `what` names."""
    free = available_memory()
    if free is not None and count * each > free:
        raise EngineError(
            f"{count} {what} need {count * each / 1e9:,.1f} GB of memory, "
            f"{free / 1e9:,.1f} GB are available: {free // each} would fit"
        )


def return_free_memory() -> None:
    """Give memory that was allocated and is free again back to the system, where the C library is asked for it."""
    with suppress(OSError, AttributeError, TypeError):  # other libraries than glibc; Windows
        ctypes.CDLL(None).malloc_trim(0)


def load_average() -> float | None:
    """Processes that ran or waited for a processor, averaged over a minute; None if the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def why_busy(load: float | None) -> str | None:
    """A phrase about other programs if that load average is more than the processors can do at once, else None."""
    processors = available_processors()
    if load is None or load <= processors:
        return None
    return f"other programs were running: the load was {load:.1f} on {processors} processor{'s' * (processors > 1)}"


def processor_name() -> str:
    """Model name and architecture, as the operating system has them."""
    name = _cpuinfo("model name") or platform.processor() or "unknown processor"
    return f"{name} ({platform.machine()})"


def processor_features() -> list[str]:
    """The processor's features among FEATURES; empty if the operating system does not tell (only Linux does)."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [feature for feature in FEATURES if feature in flags]


def _free_memory() -> int | None:
    """Memory that the whole machine can give without swapping; its size where only that is known."""
    value = _value_in("/proc/meminfo", "MemAvailable").removesuffix(" kB")
    if value.isdigit():
        return 1024 * int(value)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _free_addresses() -> int | None:
    """Bytes below this process's limit of addresses (ulimit -v)."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        used = _value_in("/proc/self/status", "VmSize").removesuffix(" kB")
    except (ImportError, AttributeError, OSError) as error:
        raise_interrupt(error)
        return None
    if limit == resource.RLIM_INFINITY or not used.isdigit():
        return None
    return max(0, limit - 1024 * int(used))


def _cpuinfo(key: str) -> str:
    return _value_in("/proc/cpuinfo", key)


def _value_in(file: str, key: str) -> str:
    """The value of the first line "key: value" of a file, or "" if there is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), ""
    )
