"""sdedit evaluate: how real and how faithful edits are, for every combination of some options."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..console import to_json
from ..errors import SdeditError
from .options import BUNDLE

if TYPE_CHECKING:
    from sdedit.evaluation.runs import Run
    from sdedit.evaluation.summary import Value

EXAMPLE = "Example: sdedit evaluate --guides guides/ --reals photos/ --out runs/ --t0 0.3,0.5,0.7"


class Numbers(click.ParamType):
    """Values with commas between them, each of one type."""

    name = "list"

    def __init__(self, kind: Callable[[str], Any]) -> None:
        self.kind = kind

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            values = [self.kind(part.strip()) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between them", parameter, context)
        return list(dict.fromkeys(values))


def folder(name: str, text: str, required: bool = True) -> Callable[..., Any]:
    kind = click.Path(path_type=Path, exists=True, file_okay=False)
    return click.option(name, type=kind, required=required, help=text)


@click.command(epilog=EXAMPLE)
@folder("--guides", "Folder of guides, all of one size if there are masks.")
@folder("--masks", "Folder of masks; each has its guide's name.", required=False)
@folder("--reals", "Folder of real images, at least as many as guides; brought to the results' size by a crop.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of results; a run goes on there.")
@click.option(
    "--results",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Instead of --out: measure this folder of results, each named as its guide (NAME.png) or with a seed "
    "(NAME-3.png). Several may be given.",
)
@click.option("--t0", default="0.5", show_default=True, type=Numbers(float), help="Values of t0.")
@click.option("--steps", default="25", show_default=True, type=Numbers(int), help="Numbers of steps.")
@click.option("--samplers", default="dpmpp_2m", show_default=True, type=Numbers(str), help="Samplers.")
@click.option("--precisions", default="auto", show_default=True, type=Numbers(str), help="Precisions.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Seeds of each edit: 0, 1, ...")
@click.option(
    "--features",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Network of KID and FID, or of LPIPS, as sdedit.evaluation.features converts it. Several may be given.",
)
@click.option("--threads", type=int, help="Number of CPU threads of the engines.  [default: as in edit]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw realism against faithfulness into this file.")
@click.option(
    "--study",
    type=click.Path(path_type=Path),
    help="Write a web page, FILE.html, on which people choose between two sets of results, or between one and real "
    "images, and FILE.key.json, which says whose each picture is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON, not as a table.")
@BUNDLE
def evaluate_command(
    guides: Path,
    masks: Path | None,
    reals: Path,
    out: Path | None,
    results: tuple[Path, ...],
    seeds: int,
    features: tuple[Path, ...],
    threads: int | None,
    plot: Path | None,
    study: Path | None,
    as_json: bool,
    bundle: Path | None,
    **options: Any,
) -> None:
    """Edit guides with each combination of options, and measure the results.

    Measured are the L2 and RMS distance to the guides; the sliced Wasserstein distance to real images; the pattern of
    2x2 pixels; with masks, both sides on their own; and, with --features, KID, FID, precision, recall and LPIPS.
    Brackets hold 95 % intervals over the images, for measures of sets the range of the seeds. A command that was ended
    goes on where it was.
    """
    check_mode(out, results)
    if plot is not None and not plot.parent.is_dir():
        raise SdeditError(f"plot {plot} cannot be written: {plot.parent} is not a folder")
    from sdedit.evaluation import measuring, runs, summary
    from sdedit.evaluation.study import making

    chosen = [] if out is None else choose(**options)
    if study is not None:
        making.check_page(study, [run.name for run in chosen] or list(map(str, results)))
    inputs = runs.find_inputs(guides, masks)
    networks = measuring.load_networks(features, threads)
    pictures = list(runs.by_stem(reals).values())
    measurer = measuring.Measurer(inputs, pictures, networks)
    if out is None:
        sets = {str(path): runs.find_results(path, inputs) for path in results}
    else:
        runs.make_results(bundle, chosen, inputs, seeds, out, progress(), threads=threads)
        sets = {run.name: runs.results_of(out, run, inputs, seeds) for run in chosen}
    rows = {name: measurer.measure(own) for name, own in sets.items()}
    if plot is not None:
        points = [(run.name.partition("_")[2], rows[run.name], f"{run.t0:g}") for run in chosen]
        summary.plot(points or [(name, values, "") for name, values in rows.items()], plot)
    if study is not None:
        making.make_study(sets, inputs, pictures, study)
    if as_json:
        heads = [asdict(run) for run in chosen] or [{"results": name} for name in rows]
        click.echo(
            to_json([head | {"measures": as_dicts(own)} for head, own in zip(heads, rows.values(), strict=True)])
        )
    else:
        click.echo(summary.table(rows) + "".join(f"\n{line}\n" for line in measuring.missing(networks)), nl=False)


def check_mode(out: Path | None, results: tuple[Path, ...]) -> None:
    """Raise UsageError unless results are either made or there, and for options of edits with those that are there."""
    if (out is None) == (not results):
        raise click.UsageError("give --out, a folder for new results, or --results, a folder of results to measure")
    context = click.get_current_context()
    for name in ("t0", "steps", "samplers", "precisions", "seeds", "bundle"):
        if results and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name} is for new results, not for --results")


def choose(t0: list[float], steps: list[int], samplers: list[str], precisions: list[str]) -> list["Run"]:
    """The combinations. Raises PlanError for a mistake in any, before the first edit."""
    from sdedit.evaluation.runs import combinations
    from sdedit.runtime.settings import Settings

    chosen = combinations(t0, steps, samplers, precisions)
    for run in chosen:
        Settings(t0=run.t0, steps=run.steps, sampler=run.sampler)  # type: ignore[arg-type] # it checks the name
    return chosen


def as_dicts(values: Mapping[str, "Value"]) -> dict[str, Any]:
    return {name: asdict(value) for name, value in values.items()}


def progress() -> Callable[[int, int], None]:
    """Write how many results there are, and the time left, on stderr where it is a terminal."""
    begun = time.monotonic()

    def on_edit(done: int, total: int) -> None:
        if sys.stderr.isatty():
            left = (time.monotonic() - begun) / done * (total - done)
            click.echo(f"\r{done} of {total} results, {left:.0f} s left  ", err=True, nl=done == total)

    return on_edit
