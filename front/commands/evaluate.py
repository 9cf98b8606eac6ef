"""sdedit evaluate: how real and how faithful edits are, for every combination of some options."""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..console import to_json
from ..errors import SdeditError
from .options import BUNDLE

if TYPE_CHECKING:
    from sdedit.evaluation.runs import Inputs, Run

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
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of results; a run goes on there.")
@click.option("--t0", default="0.5", show_default=True, type=Numbers(float), help="Values of t0.")
@click.option("--steps", default="25", show_default=True, type=Numbers(int), help="Numbers of steps.")
@click.option("--samplers", default="dpmpp_2m", show_default=True, type=Numbers(str), help="Samplers.")
@click.option("--precisions", default="auto", show_default=True, type=Numbers(str), help="Precisions.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Seeds of each edit: 0, 1, ...")
@click.option("--threads", type=int, help="Number of CPU threads of the engine.  [default: as in edit]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw realism against faithfulness into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the measures as JSON, not as a table.")
@BUNDLE
def evaluate_command(
    guides: Path,
    masks: Path | None,
    reals: Path,
    out: Path,
    t0: list[float],
    steps: list[int],
    samplers: list[str],
    precisions: list[str],
    seeds: int,
    threads: int | None,
    plot: Path | None,
    as_json: bool,
    bundle: Path | None,
) -> None:
    """Edit guides with each combination of options, and measure the results.

    Measured are the L2 and RMS distance to the guides; the sliced Wasserstein distance to real images; the pattern of
    2x2 pixels; and, with masks, both sides on their own. Brackets hold 95 % intervals over the images, for measures of
    sets the range of the seeds. A command that was ended goes on where it was.
    """
    from sdedit.evaluation import runs, summary
    from sdedit.runtime.settings import Settings

    chosen = runs.combinations(t0, steps, samplers, precisions)
    for run in chosen:  # a mistake in any is found before the first edit
        Settings(t0=run.t0, steps=run.steps, sampler=run.sampler)  # type: ignore[arg-type] # it checks the name
    if plot is not None and not plot.parent.is_dir():
        raise SdeditError(f"plot {plot} cannot be written: {plot.parent} is not a folder")
    inputs = runs.find_inputs(guides, masks)
    real_paths = list(runs.by_stem(reals).values())
    runs.make_results(bundle, chosen, inputs, seeds, out, progress(), threads=threads)
    rows = {run.name: measure(run, inputs, real_paths, seeds, out) for run in chosen}
    if plot is not None:
        points = [(run.name.partition("_")[2], rows[run.name], f"{run.t0:g}") for run in chosen]
        summary.plot(points, plot)
    if as_json:
        named = [
            {**asdict(run), "measures": {name: asdict(value) for name, value in rows[run.name].items()}}
            for run in chosen
        ]
        click.echo(to_json(named))
    else:
        click.echo(summary.table(rows), nl=False)


def measure(run: "Run", inputs: "Inputs", real_paths: list[Path], seeds: int, out: Path) -> dict[str, Any]:
    """The measures of one run's results."""
    import numpy as np

    from sdedit.evaluation import runs, summary

    stems = list(inputs.guides) * seeds
    numbers = np.repeat(np.arange(seeds), len(inputs.guides))
    paths = [runs.result_path(out, run, stem, int(seed)) for stem, seed in zip(stems, numbers, strict=True)]
    results = runs.read_images(paths, "result")
    size = (results.shape[3], results.shape[2])
    guides = runs.read_images([inputs.guides[stem] for stem in stems], "guide", None if inputs.masks else size)
    reals = runs.read_images(real_paths, "real image", size)
    return summary.summarise(results, guides, runs.read_masks(inputs, stems, size), reals, numbers)


def progress() -> Callable[[int, int], None]:
    """Write how many results there are, and the time left, on stderr where it is a terminal."""
    begun = time.monotonic()

    def on_edit(done: int, total: int) -> None:
        if sys.stderr.isatty():
            left = (time.monotonic() - begun) / done * (total - done)
            click.echo(f"\r{done} of {total} results, {left:.0f} s left  ", err=True, nl=done == total)

    return on_edit
