"""What this machine's processor is and may use."""

import os
import platform
from pathlib import Path

FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Linux's names of what decides an engine's speed: the first five on x86-64, the last two on arm64."""


def available_processors() -> int:
    """Processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_name() -> str:
    """Model name and architecture, as the operating system has them."""
    name = _cpuinfo("model name") or platform.processor() or "unknown processor"
    return f"{name} ({platform.machine()})"


def processor_features() -> list[str]:
    """Which of FEATURES there are; empty where the operating system does not say (only Linux does)."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [feature for feature in FEATURES if feature in flags]


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next(
        (value.strip() for name, _, value in (line.partition(":") for line in lines) if name.strip() == key), ""
    )
