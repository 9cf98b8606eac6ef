"""The work of `sdedit-bench --latent`: it measures the scenarios of one shape."""

import tempfile
from pathlib import Path
from typing import Any

import click

from sdedit.errors import SdeditError, printable
from sdedit.runtime.cache import VARIABLE, cache_folder
from sdedit.runtime.machine import load_average

from ..report import Run, start_run
from .report import KIND
from .scenarios import SCENARIOS
from .shapes import Shape
from .suite import LatentSuite

MINUTES = 35.0
"""Time of a scenario, once its models are made: no contender is started later."""

FOLDER = "bench-latent"


def measure_latent(shape: Shape, folder: Path | None, names: tuple[str, ...], threads: int) -> Run:
    """Measure the scenarios of these names, or all, on models of that shape. Raises SdeditError."""
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise SdeditError(f"scenario {unknown[0]!r} is not one of {', '.join(SCENARIOS)}")
    home = models_folder(folder)
    load = load_average()
    command = " ".join(["sdedit-bench --latent", f"--shape {shape.name}", *(f"--scenario {name}" for name in names)])
    run = {"kind": KIND, "peaks": {}, **start_run(f"{command} --threads {threads}", threads, load)}
    suite = LatentSuite(home, threads, 60 * MINUTES, lambda line: click.echo(printable(line), err=True))
    if run["busy"]:
        suite.say(f"{run['busy']}; all times are longer than on an idle machine")
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in names or SCENARIOS:
            if not suite.interrupted:
                reports.append(suite.run(shape, SCENARIOS[name], Path(work)))
    return {**run, "scenarios": reports, "complete": not suite.interrupted, "load_after": load_average()}


def models_folder(given: Path | None) -> Path:
    """Where the models are kept. Raises SdeditError."""
    if given is not None:
        return given
    cache = cache_folder()
    if cache is None:
        raise SdeditError(f"this user has no home folder to keep models in: give --folder, or set {VARIABLE}")
    return cache / FOLDER
