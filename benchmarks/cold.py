"""A cold start, for sdedit-bench to time: `python -m sdedit.benchmarks.cold CASE.json CONTENDER STEPS OUT.png`.

The process imports the contender's packages, loads the network, makes one edit, writes it, and prints its peak memory.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.cold")
    raise SystemExit

import subprocess
import sys
import time
from pathlib import Path

from .case import Case
from .contenders import CONTENDERS

STATUS = Path("/proc/self/status")


def main() -> None:
    """Run the cold start that the command line asks for."""
    start_cold(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]))


def start_cold(case: Path, name: str, steps: int, out: Path) -> None:
    import numpy as np
    from PIL import Image

    from .measure import run_edit

    contender = CONTENDERS[name].build(Case.load(case))
    image = run_edit(contender, steps, exact=False)[0]
    pixels = np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(pixels if pixels.shape[2] > 1 else pixels[:, :, 0]).save(out)
    print(peak_mib())


def peak_mib() -> float | None:
    """Peak memory of this process on Linux, else None. (getrusage would count memory of the parent at the fork.)"""
    if not STATUS.exists():
        return None
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def time_cold(case: Path, name: str, steps: int) -> tuple[float, float | None]:
    """Start such a process. Returns its seconds from start to end and its peak memory in MiB.

    Raises RuntimeError with the last line of its stderr if it fails.
    """
    out = case.with_suffix(".png")
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sdedit.benchmarks.cold", str(case), name, str(steps), str(out)]
    start = time.perf_counter()
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if child.returncode != 0 or not out.exists():
        lines = child.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"exit code {child.returncode}")
    peak = child.stdout.split()[-1]
    return seconds, None if peak == "None" else float(peak)
