"""Quality against network evaluations: `python -m sdedit.evaluation.pareto PICTURE --hold-out L,T,R,B`.

Views of the held-out region become strokes as `sdedit strokes` paints them; each preset brings them back. Realism is
the sliced Wasserstein distance to other held-out views, faithfulness the root mean square difference to the strokes.
The yardstick is 500 ancestral steps, by several seeds: what is at most as much worse in both than its mean as those
seeds are apart is of equal quality.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from sdedit.console import run_command
from sdedit.runtime import Editor
from sdedit.runtime.images.strokes import stroke_painting
from sdedit.runtime.plan import KEEPS, SAMPLERS
from sdedit_ref.training.crops import Crops, parse_numbers, parse_scales

from .metrics import sliced_wasserstein

T0 = 0.5
YARDSTICK_STEPS = 500
STEPS = (4, 6, 9, 13, 18, 25, 50)
MASKED_STEPS = (9, 18, 25, 50)
MASKED_SAMPLERS = ("ancestral", "dpmpp_2m")
SCALES = "1:0.4,1.5:0.25,2:0.25,3:0.1"


@dataclass(frozen=True)
class Point:
    """distance: to held-out views, mean over the pyramid's levels. difference: to the guide, RMS in [-1, 1]."""

    masked: bool
    sampler: str
    keep: str
    steps: int
    seed: int
    distance: float
    difference: float


@dataclass(frozen=True)
class Views:
    """uint8 [N, H, W, 3] each: strokes and, where they are painted over a view, that view; views to compare with."""

    strokes: np.ndarray
    composites: np.ndarray
    others: np.ndarray
    mask: np.ndarray


@click.command()
@click.argument("picture", type=click.Path(path_type=Path, exists=True))
@click.option("--hold-out", required=True, help="LEFT,TOP,RIGHT,BOTTOM: what the network was not trained on.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Of the network.  [default: the shipped one]")
@click.option("--views", default=24, show_default=True)
@click.option("--seeds", default=3, show_default=True, help="Of the yardstick.")
@click.option("--precision", default="auto", show_default=True)
@click.option("--threads", type=int)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all points.")
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the page, docs/few-steps.md.")
def command(
    picture: Path,
    hold_out: str,
    bundle: Path | None,
    views: int,
    seeds: int,
    precision: str,
    threads: int | None,
    json_file: Path | None,
    markdown: Path | None,
) -> None:
    """Measure every preset and keep rule on PICTURE's held-out region."""
    torch.set_num_threads(threads or 1)
    start = time.perf_counter()
    with Editor.open(bundle, precision=precision, threads=threads) as editor:
        size = editor.bundle.state_shape[1]
        data = make_views(picture, hold_out, size, views)
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
            f"{editor.bundle.name} {editor.bundle.sha256[:12]}, {engine.name} {engine.precision}, {views} views, "
            f"t0 = {T0}, {seeds} seeds of the yardstick; {time.perf_counter() - start:.0f} s"
        )
    text = page(points, about)
    click.echo(text)
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(point) for point in points], indent=2) + "\n", encoding="utf-8")
    if markdown is not None:
        markdown.write_text(text, encoding="utf-8")


def make_views(picture: Path, hold_out: str, size: int, count: int) -> Views:
    left, top, right, bottom = parse_numbers(hold_out)
    crops = Crops([picture], size, seed=1, scales=parse_scales(SCALES), within=(left, top, right, bottom), turns=True)
    images = torch.stack([crops[index] for index in range(2 * count)])
    pixels = ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    sources, others = pixels[:count], pixels[count:]
    strokes = np.stack([np.asarray(stroke_painting(Image.fromarray(source))) for source in sources])
    mask = np.zeros((size, size), np.uint8)
    mask[size // 4 : size - size // 4, size // 4 : size - size // 4] = 255
    composites = np.where(mask[None, :, :, None] > 0, strokes, sources)
    return Views(strokes, composites, others, mask)


def measure(editor: Editor, views: Views, seeds: int) -> Iterator[Point]:
    """The yardsticks first."""
    for masked in (False, True):
        for seed in range(seeds):
            yield edit_all(editor, views, masked, "ancestral", "fresh", YARDSTICK_STEPS, seed)
    for sampler in SAMPLERS:
        for steps in STEPS:
            yield edit_all(editor, views, False, sampler, "fresh", steps, 0)
    for sampler in MASKED_SAMPLERS:
        for keep in KEEPS:
            for steps in MASKED_STEPS:
                yield edit_all(editor, views, True, sampler, keep, steps, 0)


def edit_all(editor: Editor, views: Views, masked: bool, sampler: str, keep: str, steps: int, seed: int) -> Point:
    guides = views.composites if masked else views.strokes
    mask = views.mask if masked else None
    results = []
    for index, guide in enumerate(guides):
        edit = editor.edit(guide, mask, t0=T0, steps=steps, sampler=sampler, keep=keep, seed=1000 * seed + index)
        results.append(np.asarray(edit.images[0].pil))
    made = to_tensor(np.stack(results))
    distance = float(np.mean(sliced_wasserstein(made, to_tensor(views.others))))
    difference = float((made - to_tensor(guides)).square().mean().sqrt())
    return Point(masked, sampler, keep, steps, seed, distance, difference)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


@dataclass(frozen=True)
class Yardstick:
    """Mean of the seeds and how far apart they are, largest to smallest."""

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
        """Whether the point is at most a spread worse in both."""
        near = point.distance <= self.distance + self.distance_spread
        return near and point.difference <= self.difference + self.difference_spread


def page(points: list[Point], about: str) -> str:
    lines = [
        "# Few steps",
        "",
        "Written by `python -m sdedit.evaluation.pareto`, not by hand: the quality of each preset by its network",
        "evaluations. **Distance** / **difference**: sliced Wasserstein on a Laplacian pyramid to held-out views, and",
        "root mean square to the strokes, data in [-1, 1]. Bold: of equal quality, at most as much worse in both than",
        "the mean of 500 ancestral steps as that yardstick's own seeds are apart.",
        "",
        f"{about}; load average {os.getloadavg()[0]:.1f}." if hasattr(os, "getloadavg") else f"{about}.",
        "",
    ]
    for masked in (False, True):
        lines += table([point for point in points if point.masked == masked], masked)
    return "\n".join(lines).rstrip() + "\n"


def table(points: list[Point], masked: bool) -> list[str]:
    """Distance / difference by steps; the best of all is the smallest number of steps in bold."""
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


if __name__ == "__main__":
    run_command(command, "pareto")
