"""Parts of the proof on a GPU that run other programs: the project's tests, and compute-sanitizer."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdedit.errors import EngineError
from sdedit.runtime.bundle import Bundle
from sdedit.runtime.bundle.kernels import FOLDER

Found = Iterator[tuple[str, Any]]
"""Names and values that a part finds."""

TESTED_KERNELS = "SDEDIT_TESTED_KERNELS"
"""Variable that names the folder with the kernels that the tests take, instead of compiling them."""

SANITIZERS: Mapping[str, Sequence[str]] = {"memcheck": ("--report-api-errors", "no"), "racecheck": (), "initcheck": ()}
"""Tools of compute-sanitizer with their options: cuda.core asks for what a driver may not have, which is no error."""

SHOWN = 1500
"""Characters of a failed program's output that its error tells."""


def run_tests(bundle: Bundle) -> Found:
    """The project's tests on the GPU with the bundle's kernels, if the project's clone is here."""
    folder = Path(__file__).parents[1] / "tests"
    if not (folder / "test_gpu.py").is_file():
        yield "pytest -m gpu", "not run: this is no clone of the project"
        return
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "gpu", str(folder / "test_gpu.py")]
    kernels = {TESTED_KERNELS: str(bundle.path.resolve() / FOLDER)}
    yield "pytest -m gpu", last_line_of("pytest -m gpu", command, cwd=folder.parent, env=os.environ | kernels)


def run_sanitizers(bundle: Bundle, index: int) -> Found:
    """compute-sanitizer's checks of one round on the GPU of that number, where it is installed."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        yield "compute-sanitizer", "not installed"
        return
    code = (
        "from sdedit.benchmarks.gpu_parts import Request, compare_bits; from sdedit.runtime.bundle import read_bundle; "
        f"compare_bits(Request(read_bundle({str(bundle.path)!r}), {index}, True), 0, False)"
    )
    for check, options in SANITIZERS.items():
        command = [program, "--tool", check, *options, "--error-exitcode", "9", sys.executable, "-c", code]
        yield f"compute-sanitizer {check}", last_line_of(f"compute-sanitizer {check}", command)


def last_line_of(name: str, command: Sequence[str], **options: Any) -> str:
    """Run a program and print what it printed; returns the last line. Raises EngineError, after `name`, if it failed.

    options: subprocess.run's.
    """
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False, **options
    )
    print(done.stdout, flush=True)
    if done.returncode:
        raise EngineError(f"{name}, exit code {done.returncode}: {done.stdout.strip()[-SHOWN:]}")
    return (done.stdout.strip().splitlines() or ["nothing was printed"])[-1]
