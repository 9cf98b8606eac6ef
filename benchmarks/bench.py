"""`sdedit-bench`: measure how fast SDEdit runs on this machine, with this runtime and with alternatives."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

import click

from sdedit.console import Number, run_command
from sdedit.errors import SdeditError, printable
from sdedit.runtime.machine import available_processors, load_average

from . import report
from .latent.bench import measure_latent
from .latent.report import KIND
from .latent.report import tables as latent_tables
from .latent.shapes import SHAPES
from .machine import peaks
from .page import page
from .scenarios import Scenario, scenarios
from .suite import Suite, faults

QUICK_MINUTES = 1.0
FULL_MINUTES = 17.0
"""No contender is started later than this, so that a run ends within 90 s (--quick) or 20 minutes."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Bundle to measure.  [default: shipped model, official network]"
)
@click.option("--scenario", "names", multiple=True, help="Only this scenario; may be repeated. A wrong name lists all.")
@click.option(
    "--quick",
    is_flag=True,
    help="Finish in 90 seconds: the shipped model, masked edit, nothing that compiles first.",
)
@click.option("--latent", is_flag=True, help="Measure text-guided latent models with random weights instead.")
@click.option("--shape", type=click.Choice([*SHAPES]), help="Sizes of the latent model.  [default: small]")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the latent models here; sd15 takes 8 GB.  [default: the user's cache]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of each contender.  [default: all processors]")
@click.option("--seconds", type=Number(min=0), help="Seconds of timing per scenario.")
@click.option("--load", type=click.Path(path_type=Path), help="Measure nothing and show this run, a file of --json.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the run to this file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the page docs/benchmarks.md to this file.")
@click.option("--plot", "plots", type=click.Path(path_type=Path), help="Write pictures into this folder.")
@click.option(
    "--compare", "old", type=click.Path(path_type=Path), help="List changes since this run, a file of --json."
)
def command(
    bundle: Path | None,
    names: tuple[str, ...],
    quick: bool,
    latent: bool,
    shape: str | None,
    folder: Path | None,
    threads: int | None,
    seconds: float | None,
    load: Path | None,
    json_file: Path | None,
    markdown: Path | None,
    plots: Path | None,
    old: Path | None,
) -> None:
    """Measure how fast SDEdit runs on this machine: with this runtime and with alternatives, step by step in turns.

    A contender that fails its parity check is not timed. Ctrl-C keeps the measurements so far. The exit code is 2 if
    a package is missing, time ran out, or anything failed: what could be measured is shown all the same.
    """
    earlier = None if old is None else report.read_run(old)
    if latent:
        refuse({"bundle": bundle, "quick": quick, "seconds": seconds, "load": load}, "does not go with --latent")
        refuse({"markdown": markdown, "plot": plots}, "does not go with --latent")
        run = measure_latent(SHAPES[shape or "small"], folder, names, check_threads(threads))
    else:
        refuse({"shape": shape, "folder": folder}, "goes with --latent")
        run = measure(bundle, names, quick, threads, seconds) if load is None else report.read_run(load)
    is_latent = run.get("kind") == KIND
    if is_latent:
        refuse({"markdown": markdown, "plot": plots}, "does not go with a run of --latent")
    shown = report.printable_run(run)
    click.echo("\n" + report.header(shown) + "\n")
    click.echo("\n".join(latent_tables(shown) if is_latent else report.tables(shown)))
    if earlier is not None:
        click.echo("\n".join(report.compare(shown, report.printable_run(earlier))))
    if json_file is not None:
        report.write_run(run, json_file)
    pictures: list[Path] = []
    if plots is not None:
        from .plots import plot

        pictures = plot(run, plots)
    if markdown is not None:
        paths = [Path(os.path.relpath(picture, markdown.parent)).as_posix() for picture in pictures]
        markdown.write_text(page(run, paths), encoding="utf-8")
    if load is None:
        conclude(run)


def refuse(given: Mapping[str, object], why: str) -> None:
    """Raise UsageError for the first option that was given. why: what the error says of it."""
    for name, value in given.items():
        if value is not None and value is not False:
            raise click.UsageError(f"--{name} {why}")


def conclude(run: report.Run) -> None:
    """Raise what the exit code tells: click.Abort after Ctrl-C, SdeditError if not everything was measured."""
    if not run["complete"]:
        raise click.Abort
    if found := faults(run["scenarios"]):
        raise SdeditError(f"not everything was measured: {'; '.join(found)}")


def measure(
    bundle: Path | None, names: tuple[str, ...], quick: bool, threads: int | None, seconds: float | None
) -> report.Run:
    chosen = choose(scenarios(bundle), names, quick)
    command_line = describe_command(bundle, names, quick, threads, seconds)
    threads = check_threads(threads)
    deadline = time.perf_counter() + 60 * (QUICK_MINUTES if quick else FULL_MINUTES)
    suite = Suite(threads, deadline, quick, seconds, say=lambda line: click.echo(printable(line), err=True))
    load = load_average()
    run = report.start_run(command_line, threads, load)
    if run["busy"]:
        suite.say(f"{run['busy']}; all times are longer than on an idle machine")
    for line in suite.left_out(chosen):
        suite.say(line)
    run["scenarios"] = suite.run(chosen)
    run["complete"] = not suite.interrupted
    run["peaks"] = peaks(threads, deadline) if run["complete"] else {}
    run["load_after"] = load_average()
    return run


def check_threads(threads: int | None) -> int:
    """The number itself, or all processors for None; raises SdeditError for one that this machine does not have."""
    processors = available_processors()
    if threads is not None and threads > processors:
        raise SdeditError(f"threads {threads} is not in 1..{processors}, the processors that this process may use")
    return threads or processors


def describe_command(
    bundle: Path | None, names: tuple[str, ...], quick: bool, threads: int | None, seconds: float | None
) -> str:
    """The command line without its output files; of a folder only the name, so that a report shows no paths."""
    parts = ["sdedit-bench", *(["--quick"] if quick else []), *(f"--scenario {name}" for name in names)]
    parts += [f"--bundle {bundle.name}"] if bundle else []
    parts += [
        f"--{name} {value:g}" for name, value in (("threads", threads), ("seconds", seconds)) if value is not None
    ]
    return " ".join(parts)


def choose(available: list[Scenario], names: tuple[str, ...], quick: bool) -> list[Scenario]:
    known = {scenario.name: scenario for scenario in available}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SdeditError(f"scenario {unknown[0]!r} is not one of {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    return [scenario for scenario in available if scenario.quick or not quick]


def main() -> None:
    """Entry point of `sdedit-bench`."""
    run_command(command, "sdedit-bench")
