"""The command `python -m sdedit.benchmarks.serve`: it prints Markdown tables; a missed figure is exit code 2."""

import asyncio
import importlib.metadata
import sys
from pathlib import Path

import click

from sdedit.console import run_command
from sdedit.errors import SdeditError
from sdedit.runtime import Editor
from sdedit.runtime.machine import available_processors, load_average, processor_name

from .faults import run_faults
from .load import Load, editor_capacity, expected_results, first_preview, quantile, run_load
from .process import server_process
from .soak import run_soak

SHARES = (0.5, 0.9, 2.0)
"""Load, as shares of what the Editor alone does."""

PARTS = ("faults", "load", "soak")


@click.command()
@click.argument("guide", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--part", "parts", type=click.Choice(PARTS), multiple=True, help="Run this part.  [default: faults, load]"
)
@click.option("--seconds", default=10.0, show_default=True, help="Duration of each load, and of the soak (seconds).")
@click.option("--steps", default=25, show_default=True, help="Steps of an edit.")
@click.option("--slots", default=2, show_default=True, help="Slots of the server and of the Editor alone.")
@click.option("--threads", type=int, help="Threads of both engines.  [default: measured by tune, or all processors]")
def serve_benchmark(
    guide: Path, parts: tuple[str, ...], seconds: float, steps: int, slots: int, threads: int | None
) -> None:
    """Measure `sdedit serve` with the shipped model: faults, load against the Editor alone, and a soak.

    GUIDE is the picture that is edited. The soak runs for --seconds at twice the Editor's rate.
    """
    chosen = parts or ("faults", "load")
    data = guide.read_bytes()
    click.echo(f"{processor_name()}, {available_processors()} processors, load {load_average()} before")
    click.echo(", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("starlette", "uvicorn")))
    missed = asyncio.run(measure_faults(data)) if "faults" in chosen else 0
    if {"load", "soak"} & set(chosen):
        missed += asyncio.run(measure_loads(data, chosen, seconds, steps, slots, threads))
    click.echo(f"\nload {load_average()} after")
    if missed:
        raise SdeditError(f"{missed} figures were missed")


async def measure_faults(guide: bytes) -> int:
    """Print each fault when it has been measured; returns the number of figures that were missed."""
    missed = 0
    click.echo("\n| fault | measured | to reach | |\n|---|---|---|---|")
    async for row in run_faults(guide):
        click.echo(f"| {row.fault} | {row.measured} | {row.wanted} | {'passed' if row.passed else '**missed**'} |")
        missed += not row.passed
    return missed


async def measure_loads(
    guide: bytes, parts: tuple[str, ...], seconds: float, steps: int, slots: int, threads: int | None
) -> int:
    """Print the tables of load and soak; returns the number of runs with a lost or a wrong answer."""
    with Editor.open(slots=slots, threads=threads) as editor:
        expected = expected_results(editor, guide, steps)
        capacity = editor_capacity(editor, guide, steps, min(seconds, 10))
    click.echo(f"\nThe Editor alone: {capacity:.2f} edits a second of {steps} steps, {slots} slots.")
    missed = 0
    engine = ["--slots", str(slots), *(["--threads", str(threads)] if threads is not None else [])]
    async with server_process(engine) as server:
        if "load" in parts:
            previews = [await first_preview(server.port, guide, steps) for _ in range(7)]
            loads = [await run_load(server.port, guide, expected, share * capacity, seconds, steps) for share in SHARES]
            print_loads(loads, capacity)
            click.echo(f"\nFirst preview after {1000 * quantile(previews, 0.5):.0f} ms (median of {len(previews)}).")
            missed += sum(load.wrong + load.lost > 0 for load in loads)
        if "soak" in parts:
            soak = await run_soak(server, guide, expected, 2 * capacity, seconds, steps)
            print_loads([soak.load], capacity)
            click.echo(f"\nSoak of {seconds:g} s with {soak.faults} faults. Resident memory at its end:")
            click.echo(f"{soak.memory:.0f} MiB; slope over the second half: {soak.slope:+.2f} MiB a minute.")
            missed += soak.load.wrong + soak.load.lost > 0
    return missed


def print_loads(loads: list[Load], capacity: float) -> None:
    """Print the table of loads."""
    click.echo(
        "\n| load | sent a second | answers | done a second | p50 ms | p99 ms | refusals p99 ms | lost | wrong |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|")
    for load in loads:
        done = load.statuses[200] / (load.seconds + quantile(load.latencies, 1.0))
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(load.statuses.items()))
        p50, p99 = (1000 * quantile(load.latencies, share) for share in (0.5, 0.99))
        late = f"{1000 * quantile(load.refusals, 0.99):.0f}" if load.refusals else "-"
        cells = (
            f"{load.rate / capacity:.0%}",
            f"{load.rate:.2f}",
            statuses,
            f"{done:.2f}",
            f"{p50:.0f}",
            f"{p99:.0f}",
            late,
        )
        click.echo(f"| {' | '.join(cells)} | {load.lost} | {load.wrong} |")


if __name__ == "__main__":
    run_command(serve_benchmark, f"{Path(sys.executable).name} -m sdedit.benchmarks.serve")
