"""Write the shipped model's page of quality: `python -m sdedit.evaluation.quality PICTURE --hold-out L,T,R,B`.

Held-out views become guides of the paper's three tasks: stroke paintings, photos with strokes on them, and composites.
Each case edits all guides of a task with several seeds. Results are kept in a folder, so a command that was ended goes
on.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.quality")
    raise SystemExit

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from sdedit.console import run_command
from sdedit.errors import EngineError, PlanError, SdeditError
from sdedit.runtime import Editor
from sdedit.runtime.bundle import SHIPPED, read_bundle
from sdedit.runtime.codec import to_image
from sdedit.runtime.images import save_image
from sdedit.runtime.plan import KEEPS

from .blending import METHODS
from .pareto import held_out_crops, write
from .runs import as_precision, make_folder
from .sheet import Cell, draw_sheet
from .summary import Value, summarise, table
from .views import cut, edit, middle_mask, paint

T0, STEPS, SAMPLER = 0.5, 9, "dpmpp_2m"
T0S = (0.1, 0.3, 0.5, 0.7, 0.9)
STEP_COUNTS = (4, 9, 18)
SAMPLERS = ("ddim", "dpmpp_2m", "ancestral")
PRECISIONS = ("float32", "bfloat16", "int8")
COLOURS = (2, 6, 16)
SHOWN = 4
"""Views on a sheet."""

MEASURES = ("l2", "l2_inside", "l2_outside", "sliced_wasserstein", "grid")


@dataclass(frozen=True)
class Task:
    """Guides, float32 [N, 3, H, W] in [-1, 1], and for masked ones the photos below and the mask, uint8 [H, W]."""

    guides: np.ndarray
    photos: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """One line of a table. options: those of Editor.edit. method: a baseline instead of an edit; "" for an edit."""

    section: str
    name: str
    task: str
    precision: str = "float32"
    method: str = ""
    t0: float = T0
    steps: int = STEPS
    sampler: str = SAMPLER
    keep: str = "fresh"

    def options(self) -> dict[str, Any]:
        return {"t0": self.t0, "steps": self.steps, "sampler": self.sampler, "keep": self.keep}


SECTIONS = {
    "t0": "Stroke paintings of 6 colours. Larger t0 leaves the guide; the distance to real views says what is gained.",
    "Samplers by steps": "Stroke paintings of 6 colours. [Few steps](few-steps.md) has all samplers.",
    "Keep rules": "Views with strokes in the middle, whose mask is the middle. `paper` and `official` are returned as "
    "computed: what the mask keeps has noise in it.",
    "Precisions": "Stroke paintings of 6 colours. The engine is the one that the machine has for the precision.",
    "Quality of the guide": "Stroke paintings of 2, 6 and 16 colours, the paper's ablation.",
    "Tasks": "The paper's three tasks, with the same options.",
    "Composites beside simpler ways": "The middle of one view in another. Copy and paste is the guide itself. "
    "The mask is the pasted square, so an edit keeps its border; Poisson blending takes on the colours around it.",
}
"""Heading -> what stands below it."""


def all_cases() -> list[Case]:
    """The lines of the page, in its order."""
    strokes = "strokes-6"
    found = [Case("t0", f"t0 {t0:g}", strokes, t0=t0) for t0 in T0S]
    found += [
        Case("Samplers by steps", f"{sampler}, {steps} steps", strokes, sampler=sampler, steps=steps)
        for sampler in SAMPLERS
        for steps in STEP_COUNTS
    ]
    found += [Case("Keep rules", keep, "photo", keep=keep) for keep in KEEPS]
    found += [Case("Precisions", precision, strokes, precision=precision) for precision in PRECISIONS]
    found += [Case("Quality of the guide", f"{colours} colours", f"strokes-{colours}") for colours in COLOURS]
    names = {strokes: "stroke painting", "photo": "strokes on a photo", "composite": "composite"}
    found += [Case("Tasks", name, task) for task, name in names.items()]
    last = "Composites beside simpler ways"
    found += [Case(last, f"edit, t0 {t0:g}", "composite", t0=t0) for t0 in (0.3, 0.5)]
    found += [Case(last, "copy and paste", "composite", method="copy")]
    return found + [Case(last, f"{method.capitalize()} blending", "composite", method=method) for method in METHODS]


def make_tasks(views: np.ndarray, others: np.ndarray) -> dict[str, Task]:
    """The tasks by name. views, others: float32 [N, 3, H, W]; others are what composites have in the middle."""
    mask = middle_mask(views.shape[2])
    found = {f"strokes-{colours}": Task(paint(views, colours)) for colours in COLOURS}
    found["photo"] = Task(np.where(mask > 0, found["strokes-6"].guides, views), views, mask)
    found["composite"] = Task(np.where(mask > 0, others, views), views, mask)
    return found


class Results:
    """The results of cases, float32 [seeds x N, 3, H, W], kept in a folder; no two cases compute the same edits."""

    def __init__(self, bundle: Path | None, tasks: Mapping[str, Task], seeds: int, threads: int | None, folder: Path):
        self._bundle, self._tasks, self._seeds, self._threads, self._folder = bundle, tasks, seeds, threads, folder
        self._editors: dict[str, Editor] = {}
        self._stack = ExitStack()

    def __enter__(self) -> "Results":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def of(self, case: Case) -> np.ndarray:
        """Raises EngineError for a precision that is not here, PlanError for more steps than levels, and ImageError."""
        task = self._tasks[case.task]
        if case.method == "copy":
            return task.guides
        if case.method:
            assert task.photos is not None
            assert task.mask is not None
            pairs = zip(task.guides, task.photos, strict=True)
            return np.stack([METHODS[case.method](guide, photo, task.mask > 0) for guide, photo in pairs])
        editor = self.editor(case.precision)
        told = (editor.bundle.sha256, editor.device.engine.name, case.precision, self._seeds, case.options())
        digest = hashlib.sha256(repr(told).encode() + task.guides.tobytes()).hexdigest()[:16]
        file = self._folder / f"{digest}.npy"
        if file.exists():
            found: np.ndarray = np.load(file)
            return found
        count = len(task.guides)
        made = [
            edit(editor, task.guides, range(1000 * seed, 1000 * seed + count), task.mask, **case.options())
            for seed in range(self._seeds)
        ]
        results = np.concatenate(made)
        temporary = file.with_suffix(".part.npy")
        np.save(temporary, results)
        temporary.replace(file)
        return results

    def editor(self, precision: str) -> Editor:
        """The open editor of this precision."""
        if precision not in self._editors:
            opened = Editor.open(self._bundle, precision=as_precision(precision), threads=self._threads)
            self._editors[precision] = self._stack.enter_context(opened)
        return self._editors[precision]


def measure(results: np.ndarray, task: Task, reals: np.ndarray) -> dict[str, Value]:
    """The measures of a page's line. Results are the guides' for one seed after another."""
    seeds = np.repeat(np.arange(len(results) // len(task.guides)), len(task.guides))
    guides = np.tile(task.guides, (seeds[-1] + 1, 1, 1, 1))
    masks = None if task.mask is None else np.broadcast_to(task.mask > 0, (len(results), *task.mask.shape))
    found = summarise(results, guides, masks, reals, seeds)
    return {name: found[name] for name in MEASURES if name in found and (masks is None or name != "l2")}


def page(rows: Mapping[Case, Mapping[str, Value] | str], about: str) -> str:
    """The page in Markdown. rows: the measures of each case, or why there are none."""
    blind = "\n".join(f"- {name}: {text}" for name, text in BLIND.items())
    parts = [HEAD.format(about=about, blind=blind, t0=T0, steps=STEPS, sampler=SAMPLER)]
    for section, text in SECTIONS.items():
        own = {case: values for case, values in rows.items() if case.section == section}
        measured = {case.name: values for case, values in own.items() if not isinstance(values, str)}
        absent = [f"Not measured: {case.name} ({why})." for case, why in own.items() if isinstance(why, str)]
        parts += [f"## {section}", text, table(measured).rstrip(), *absent]
    return "\n\n".join(parts) + "\n"


BLIND = {
    "`l2`": "Distance to the guide, pixels in [0, 1]: smaller is more faithful. It cannot see whether a change is for "
    "the better.",
    "`l2_inside`, `l2_outside`": "The same on either side of a mask's border; outside, 0 is exact. They cannot see the "
    "border itself.",
    "`sliced_wasserstein`": "Distance of small neighbourhoods to those of other real views: smaller is more real. It "
    "cannot see how parts are put together.",
    "`grid`": "Strength of a pattern of 2x2 pixels, of 255: smaller is better. It cannot see anything else.",
}
"""Measure -> its meaning, and what it cannot see."""

HEAD = """\
# Quality

`python -m sdedit.evaluation.quality` wrote this page: how real and how faithful edits of the shipped model are, on
views that it was not trained on. Unless a table says otherwise, edits are made from t0 = {t0} in {steps} steps of
`{sampler}`.

{about}

{blind}

Brackets hold 95 % intervals over the views for the first two, and the smallest and the largest value of a seed for the
others. Differences smaller than the brackets say nothing. A range of seeds does not hold what other views would change:
for that, compare with the distance of real views. KID, FID and LPIPS need weights that are not part of sdedit, so this
page has none. Nobody was asked which pictures look better: `sdedit evaluate --study` makes a page that asks.

![A row a view: its stroke painting, edits from each t0, and the view itself](quality-t0.jpg)

![A row a composite: the photo, edits, copy and paste, and blending](quality-composites.jpg)"""


@click.command(epilog="Example: python -m sdedit.evaluation.quality bmng.jpg --hold-out 4350,1485,5025,2040 --work run")
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--hold-out", required=True, help="Region that the network was not trained on: LEFT,TOP,RIGHT,BOTTOM.")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder of results; a run goes on there.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to measure.  [default: the shipped one]")
@click.option("--views", type=click.IntRange(min=2), default=16, show_default=True, help="Number of guides of a task.")
@click.option("--seeds", type=click.IntRange(min=1), default=2, show_default=True, help="Seeds of each edit.")
@click.option("--threads", type=int, help="Number of CPU threads of the engines.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write docs/quality.md to this file, and its sheets.")
def command(
    picture: Path,
    hold_out: str,
    work: Path,
    bundle: Path | None,
    views: int,
    seeds: int,
    threads: int | None,
    markdown: Path | None,
) -> None:
    """Measure t0, samplers, keep rules, precisions, guides, tasks and baselines on PICTURE's held-out region."""
    if markdown is not None and not markdown.parent.is_dir():  # now, not after ten minutes
        raise SdeditError(f"{markdown} cannot be written: {markdown.parent} is not a folder")
    make_folder(work)
    with ExitStack() as stack:
        crops = held_out_crops(picture, hold_out, read_bundle(bundle or SHIPPED).state_shape)
        sources, others, reals, floor = (cut(crops, part * views, views) for part in range(4))
        tasks = make_tasks(sources, others)
        results = stack.enter_context(Results(bundle, tasks, seeds, threads, work))
        rows: dict[Case, Mapping[str, Value] | str] = {}
        for number, case in enumerate(cases := all_cases(), 1):
            click.echo(f"{number} of {len(cases)}: {case.section}, {case.name}", err=True)
            try:
                rows[case] = measure(results.of(case), tasks[case.task], reals)
            except (EngineError, PlanError) as error:
                rows[case] = str(error).replace(str(bundle or SHIPPED), "BUNDLE")
        editor = results.editor("float32")
        best = measure(floor, Task(floor), reals)["sliced_wasserstein"].value
        about = (
            f"{editor.bundle.name} {editor.bundle.sha256[:12]}, {editor.device.engine.name}; {views} views of each "
            f"task, {seeds} seeds. Real views have a sliced Wasserstein distance of {best:.4f} to other real ones."
        )
        text = page(rows, about)
        click.echo(text)
        if markdown is not None:
            write(markdown, text)
            folder = markdown.parent
            save_image(t0_sheet(results, tasks["strokes-6"], sources), folder / "quality-t0.jpg", {})
            save_image(composite_sheet(results, tasks["composite"]), folder / "quality-composites.jpg", {})


def t0_sheet(results: Results, task: Task, sources: np.ndarray) -> Any:
    """The PIL image: a row a view; its painting, its edits from each t0, and the view."""
    edits = {case.name: results.of(case) for case in all_cases() if case.section == "t0"}
    return sheet("Stroke paintings", {"strokes": task.guides, **edits, "the view": sources})


def composite_sheet(results: Results, task: Task) -> Any:
    """The PIL image: a row a view; the photo, and each way to paste into it."""
    ways = [case for case in all_cases() if case.section == "Composites beside simpler ways"]
    assert task.photos is not None
    return sheet("Composites", {"photo": task.photos, **{case.name: results.of(case) for case in ways}})


def sheet(title: str, columns: Mapping[str, np.ndarray]) -> Any:
    """The PIL image: a column a name, and the first SHOWN pictures of each."""
    count = min(SHOWN, *(len(images) for images in columns.values()))
    cells: Sequence[Sequence[Cell]] = [
        [Cell(to_image(images[row])) for images in columns.values()] for row in range(count)
    ]
    return draw_sheet(title, list(columns), [""] * count, cells)


def main() -> None:
    """Run the command as this process."""
    run_command(command, "quality")
