"""One contender's process: `python -m sdedit.benchmarks.latent.child REQUEST.json CONTENDER OUT.png BEGUN`.

It loads the contender, makes the edits, writes the last picture and prints what it measured, as JSON. BEGUN is the time
by time.monotonic, which the processes of a machine share, at which it was started.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.benchmarks.latent.child")
    raise SystemExit

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..case import MissingError
from ..cold import peak_mib

Measured = Mapping[str, Any]
"""version; load_s: from the start to the loaded model; edits: of each its seconds and those of its steps but the first;
peak_mib: the process's peak memory, or None."""


def main() -> None:
    """Run the contender that the command line names."""
    try:
        found = measure(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), float(sys.argv[4]))
    except MissingError as error:
        found = {"missing": str(error)}
    print(json.dumps(found, allow_nan=False))


def measure(request_file: Path, name: str, out: Path, begun: float) -> Measured:
    """Load the contender, edit, and write the last picture. begun: as BEGUN above."""
    from PIL import Image

    from .contenders import CONTENDERS
    from .scenarios import Request

    request = Request.load(request_file)
    contender = CONTENDERS[name].open(request)
    load_s = time.monotonic() - begun
    edits = []
    for _ in range(request.edits):
        stamps: list[float] = []
        start = time.perf_counter()
        picture = contender.edit(stamper(stamps))
        seconds = time.perf_counter() - start
        edits.append({"seconds": seconds, "steps": [b - a for a, b in pairwise(stamps)]})
    Image.fromarray(picture).save(out)
    return {"version": contender.version, "load_s": load_s, "edits": edits, "peak_mib": peak_mib()}


def stamper(stamps: list[float]) -> Callable[[], None]:
    """A function that notes the time."""
    return lambda: stamps.append(time.perf_counter())


def run_child(request_file: Path, name: str, out: Path, seconds: float) -> Measured:
    """Start such a process. Raises MissingError, TimeoutError after so many seconds, RuntimeError if it fails."""
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sdedit.benchmarks.latent.child", str(request_file), name, str(out)]
    command.append(str(time.monotonic()))
    try:
        child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"it did not end within {seconds:.0f} s") from None
    lines = child.stdout.strip().splitlines()
    if child.returncode != 0 or not lines:
        errors = child.stderr.strip().splitlines()
        raise RuntimeError(errors[-1] if errors else f"exit code {child.returncode}")
    found: dict[str, Any] = json.loads(lines[-1])
    if "missing" in found:
        raise MissingError(found["missing"])
    return found
