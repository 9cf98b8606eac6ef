"""Quality against network evaluations: `python -m sdedit.evaluation.pareto PICTURE --hold-out L,T,R,B`.

`sdedit strokes` paints views of the held-out region, and every preset edits these paintings. Realism is the sliced
Wasserstein distance from the results to other held-out views; faithfulness is the root mean square difference between
the results and the paintings. The yardstick is 500 ancestral steps with several seeds. A preset is of equal quality if
both numbers exceed the yardstick's mean by no more than the spread of its seeds.
"""

if __name__ == "__main__":  # before the imports, which take seconds
    from sdedit.entry import run_module

    run_module("sdedit.evaluation.pareto")
    raise SystemExit

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np

from sdedit.console import run_command, to_json
from sdedit.errors import ImageError, SdeditError, reason
from sdedit.runtime import Editor
from sdedit.runtime.machine import load_average
from sdedit.runtime.plan import KEEPS, SAMPLERS
from sdedit_ref.training.crops import Crops, find_pictures, parse_numbers, parse_scales

from .metrics import root_mean_square, sliced_wasserstein
from .views import cut, edit, middle_mask, paint

if TYPE_CHECKING:
    from sdedit.runtime.editor import PrecisionName

T0 = 0.5
YARDSTICK_STEPS = 500
STEPS = (4, 6, 9, 13, 18, 25, 50)
MASKED_STEPS = (9, 18, 25, 50)
UNMASKED_SAMPLERS = tuple(name for name, preset in SAMPLERS.items() if not preset.renoise)
"""Samplers that solve the reverse process; the others are for consistency models."""
MASKED_SAMPLERS = ("ancestral", "dpmpp_2m")
SCALES = "1:0.4,1.5:0.25,2:0.25,3:0.1"

EXPLANATION = """\
`python -m sdedit.evaluation.pareto` wrote this page: the quality of each preset by its number of network evaluations.
Each cell is **distance** / **difference**: the sliced Wasserstein distance on a Laplacian pyramid to held-out views,
and the root mean square difference to the strokes, for pixels in [-1, 1]. The yardstick is 500 ancestral steps with
several seeds. Bold cells are of equal quality: both numbers exceed the yardstick's mean by no more than the spread of
its seeds."""
"""The page's text before its tables."""


@dataclass(frozen=True)
class Point:
    """One measurement. distance: to held-out views, mean over the pyramid's levels. difference: to the guides."""

    masked: bool
    sampler: str
    keep: str
    steps: int
    seed: int
    distance: float
    difference: float


@dataclass(frozen=True)
class Views:
    """Images, float32 [N, 3, H, W], to measure on.

    strokes: painted views. composites: views with strokes in the middle alone. others: views to compare results with.
    mask: uint8 [H, W], the middle.
    """

    strokes: np.ndarray
    composites: np.ndarray
    others: np.ndarray
    mask: np.ndarray


@click.command(epilog="Example: python -m sdedit.evaluation.pareto earth.png --hold-out 4350,1323,5025,1878")
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--hold-out", required=True, help="Region that the network was not trained on: LEFT,TOP,RIGHT,BOTTOM.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Bundle to measure.  [default: the shipped one]")
@click.option("--views", type=click.IntRange(min=2), default=24, show_default=True, help="Number of edits per preset.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds of the yardstick.")
@click.option("--precision", default="auto", show_default=True, help="Precision of the engine.")
@click.option("--threads", type=int, help="Number of CPU threads of the engine.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all measurements to this file.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the page docs/few-steps.md to this file.")
def command(
    picture: Path,
    hold_out: str,
    bundle: Path | None,
    views: int,
    seeds: int,
    precision: "PrecisionName",
    threads: int | None,
    json_file: Path | None,
    markdown: Path | None,
) -> None:
    """Measure every preset and keep rule on PICTURE's held-out region."""
    for path in filter(None, (json_file, markdown)):  # now, not after ten minutes
        if not path.parent.is_dir():
            raise SdeditError(f"{path} cannot be written: {path.parent} is not a folder")
    start = time.perf_counter()
    with Editor.open(bundle, precision=precision, threads=threads) as editor:
        data = make_views(picture, hold_out, editor.bundle.state_shape, views)
        points = []
        for point in measure(editor, data, seeds):
            points.append(point)
            click.echo(
                f"{point.sampler:15} {point.keep:9} {'masked' if point.masked else 'whole':7} {point.steps:4} steps "
                f"distance {point.distance:.4f}, difference {point.difference:.4f}",
                err=True,
            )
        engine = editor.device.engine
        about = (
            f"{editor.bundle.name} {editor.bundle.sha256[:12]}, {engine.name} {engine.precision}, "
            f"{views} views, t0 = {T0}, {seeds} seeds of the yardstick; {time.perf_counter() - start:.0f} s"
        )
    text = page(points, about)
    click.echo(text)
    if json_file is not None:
        write(json_file, to_json([asdict(point) for point in points]) + "\n")
    if markdown is not None:
        write(markdown, text)


def write(path: Path, text: str) -> None:
    """Write a text file; raises SdeditError if that fails."""
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise SdeditError(f"{path} cannot be written: {reason(error)}") from None


def held_out_crops(picture: Path, hold_out: str, shape: tuple[int, int, int]) -> Crops:
    """Views of the region `hold_out`, LEFT,TOP,RIGHT,BOTTOM of the picture, for images of that shape.

    Raises ImageError.
    """
    channels, height, size = shape
    box = parse_numbers(hold_out)
    if channels != 3 or height != size:
        raise ImageError(f"the bundle edits {channels}x{height}x{size} images; square RGB images are accepted")
    if len(box) != 4:
        raise ImageError(f"hold-out {hold_out!r} is not LEFT,TOP,RIGHT,BOTTOM")
    left, top, right, bottom = box
    paths = find_pictures(picture, size)
    return Crops(paths, size, seed=1, scales=parse_scales(SCALES), within=(left, top, right, bottom), turns=True)


def make_views(picture: Path, hold_out: str, shape: tuple[int, int, int], count: int) -> Views:
    """`count` views to paint and as many others of the region `hold_out`; raises ImageError."""
    crops = held_out_crops(picture, hold_out, shape)
    sources, others = cut(crops, 0, count), cut(crops, count, count)
    strokes, mask = paint(sources), middle_mask(shape[2])
    return Views(strokes, np.where(mask > 0, strokes, sources), others, mask)


def measure(editor: Editor, views: Views, seeds: int) -> Iterator[Point]:
    """Every measurement of the page, the yardsticks first."""
    for masked in (False, True):
        for seed in range(seeds):
            yield measure_one(editor, views, masked, "ancestral", "fresh", YARDSTICK_STEPS, seed)
    for sampler in UNMASKED_SAMPLERS:
        for steps in STEPS:
            yield measure_one(editor, views, False, sampler, "fresh", steps, 0)
    for sampler in MASKED_SAMPLERS:
        for keep in KEEPS:
            for steps in MASKED_STEPS:
                yield measure_one(editor, views, True, sampler, keep, steps, 0)


def measure_one(editor: Editor, views: Views, masked: bool, sampler: str, keep: str, steps: int, seed: int) -> Point:
    """Edit all views with one preset and measure the results."""
    guides, mask = (views.composites, views.mask) if masked else (views.strokes, None)
    seeds = range(1000 * seed, 1000 * seed + len(guides))
    results = edit(editor, guides, seeds, mask, t0=T0, steps=steps, sampler=sampler, keep=keep)
    distance = float(np.mean(sliced_wasserstein(results, views.others)))
    return Point(masked, sampler, keep, steps, seed, distance, root_mean_square(results, guides))


@dataclass(frozen=True)
class Yardstick:
    """Means over the yardstick's seeds, and spreads: the largest value less the smallest."""

    distance: float
    distance_spread: float
    difference: float
    difference_spread: float

    @classmethod
    def of(cls, points: list[Point]) -> "Yardstick":
        distances, differences = [p.distance for p in points], [p.difference for p in points]
        return cls(
            float(np.mean(distances)),
            max(distances) - min(distances),
            float(np.mean(differences)),
            max(differences) - min(differences),
        )

    def equals(self, point: Point) -> bool:
        """Whether both numbers of the point exceed the means by no more than the spreads."""
        near = point.distance <= self.distance + self.distance_spread
        return near and point.difference <= self.difference + self.difference_spread


def page(points: list[Point], about: str) -> str:
    """The page docs/few-steps.md, in Markdown."""
    load = load_average()
    lines = [
        "# Few steps",
        "",
        EXPLANATION,
        "",
        f"{about}; load average {'unknown' if load is None else f'{load:.1f}'}.",
        "",
    ]
    for masked in (False, True):
        lines += table([point for point in points if point.masked == masked], masked)
    return "\n".join(lines).rstrip() + "\n"


def table(points: list[Point], masked: bool) -> list[str]:
    """Distance / difference by number of steps, and the fewest steps of equal quality."""
    yardstick = Yardstick.of([point for point in points if point.steps == YARDSTICK_STEPS])
    rest = [point for point in points if point.steps != YARDSTICK_STEPS]
    steps = sorted({point.steps for point in rest})
    lines = [
        f"## {'Masked: strokes in the middle of a view' if masked else 'Whole: strokes everywhere'}",
        "",
        f"Yardstick: distance {yardstick.distance:.4f} (spread {yardstick.distance_spread:.4f}), "
        f"difference {yardstick.difference:.4f} (spread {yardstick.difference_spread:.4f}).",
        "",
        "| sampler, keep | " + " | ".join(map(str, steps)) + " | fewest of equal quality |",
        "|---" * (len(steps) + 2) + "|",
    ]
    for name in dict.fromkeys((point.sampler, point.keep) for point in rest):
        own = {point.steps: point for point in rest if (point.sampler, point.keep) == name}
        cells = [cell(own[n], yardstick) if n in own else "" for n in steps]
        equal = [n for n in steps if n in own and yardstick.equals(own[n])]
        lines.append(f"| {', '.join(name)} | " + " | ".join(cells) + f" | {min(equal, default='none')} |")
    return [*lines, ""]


def cell(point: Point, yardstick: Yardstick) -> str:
    text = f"{point.distance:.3f} / {point.difference:.3f}"
    return f"**{text}**" if yardstick.equals(point) else text


def main() -> None:
    """Run the command as this process."""
    run_command(command, "pareto")
