"""All measures of one set of results, with confidence intervals, and the table and figure of several sets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import SdeditError, install_hint, raise_interrupt, reason

from .metrics import grid, sliced_wasserstein
from .pairs import inside, l2_each, outside, psnr_each, rms_each, ssim_each
from .runs import make_folder

RESAMPLES = 200
"""Bootstrap samples of the images, for each interval."""

LEVEL = 0.95

REALISM = {"kid": "KID", "sliced_wasserstein": "sliced Wasserstein"}
"""Measures of a plot's vertical axis, the best first, and their names there."""


@dataclass(frozen=True)
class Value:
    """A measure and the ends of its interval: NaN where there is none, from one image or one seed, or of infinities."""

    value: float
    low: float
    high: float


def mean_of(each: np.ndarray, images: np.ndarray) -> Value:
    """The mean over all results, and its interval when images (with all their seeds) are drawn again.

    each: a number a result. images: which guide each result is of: seeds of one guide are not independent. Efron 1979.
    """
    names = np.unique(images)
    means = np.array([each[images == name].mean() for name in names])
    counts = np.array([(images == name).sum() for name in names])
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(names), (RESAMPLES, len(names)))
    with np.errstate(invalid="ignore"):
        samples = (means * counts)[drawn].sum(1) / counts[drawn].sum(1)
    if len(names) < 2 or not np.isfinite(each).all():
        return Value(float(each.mean()), float("nan"), float("nan"))
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Value(float(each.mean()), float(low), float(high))


def over_seeds(measure: Callable[[np.ndarray], float], results: np.ndarray, seeds: np.ndarray) -> Value:
    """The mean of a set's measure over the seeds, each on its own, and the smallest and the largest of them.

    Each seed's set has as many images as there are guides, so biases that depend on the count are equal.
    """
    values = [measure(results[seeds == seed]) for seed in np.unique(seeds)]
    low, high = (min(values), max(values)) if len(values) > 1 else (float("nan"), float("nan"))
    return Value(float(np.mean(values)), low, high)


def summarise(
    results: np.ndarray, guides: np.ndarray, masks: np.ndarray | None, reals: np.ndarray, seeds: np.ndarray
) -> dict[str, Value]:
    """The measures that need no features, by name.

    results, guides: float32 [N, 3, H, W] in [-1, 1], partners in one order; masks: bool [N, H, W] or None; reals:
    float32 [M, 3, H, W], at least as many as results of a seed; seeds: int [N].
    """
    images = np.concatenate([np.arange((seeds == seed).sum()) for seed in np.unique(seeds)])

    def distance(own: np.ndarray) -> float:
        return float(np.mean(sliced_wasserstein(own, reals[: len(own)])))

    found = {
        "l2": mean_of(l2_each(results, guides), images),
        "rms": mean_of(rms_each(results, guides), images),
        "sliced_wasserstein": over_seeds(distance, results, seeds),
        "grid": over_seeds(grid, results, seeds),
    }
    if masks is not None:
        kept = outside(results, guides, masks)
        found["l2_outside"] = mean_of(l2_each(kept, guides), images)
        found["l2_inside"] = mean_of(l2_each(inside(results, guides, masks), guides), images)
        found["psnr_outside"] = mean_of(psnr_each(results, guides, ~masks), images)
        found["ssim_outside"] = mean_of(ssim_each(kept, guides), images)
    return found


def table(rows: Mapping[str, Mapping[str, Value]]) -> str:
    """A Markdown table: a line a set of results, a column a measure; intervals in brackets."""
    names = list(dict.fromkeys(name for values in rows.values() for name in values))
    lines = ["| results | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row, values in rows.items():
        lines.append(f"| {row} | " + " | ".join(cell(values[n]) if n in values else "" for n in names) + " |")
    return "\n".join(lines) + "\n"


def cell(value: Value) -> str:
    if not np.isfinite(value.low):
        return f"{value.value:.4g}"
    return f"{value.value:.4g} [{value.low:.4g}, {value.high:.4g}]"


def plot(points: Sequence[tuple[str, Mapping[str, Value], Any]], path: Path) -> None:
    """The paper's Figure 3: realism against faithfulness. points: (series, measures, label of the point).

    Realism is KID where it was measured, else the sliced Wasserstein distance.

    Raises SdeditError without matplotlib, or if the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"--plot needs matplotlib: {install_hint('evaluate')}") from None
    realism = next(name for name in REALISM if all(name in values for _, values, _ in points))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for series in dict.fromkeys(name for name, _, _ in points):
        own = [(values, label) for name, values, label in points if name == series]
        x, y = ([values[name] for values, _ in own] for name in ("l2", realism))
        axes.errorbar(
            [v.value for v in x], [v.value for v in y], xerr=bars(x), yerr=bars(y), marker="o", capsize=2, label=series
        )
        for a, b, (_, label) in zip(x, y, own, strict=True):
            axes.annotate(str(label), (a.value, b.value), textcoords="offset points", xytext=(4, 4), fontsize=8)
    axes.set(xlabel="L2 to the guide (faithful: left)", ylabel=f"{REALISM[realism]} to reals (real: below)")
    axes.legend(frameon=False, fontsize=8)
    make_folder(path.parent)
    try:
        figure.savefig(path, dpi=120, metadata={"Software": None} if path.suffix == ".png" else None)
    except (OSError, ValueError) as error:  # ValueError: matplotlib does not write this format
        raise SdeditError(f"plot {path} cannot be written: {reason(error)}") from None


def bars(values: Sequence[Value]) -> list[list[float]]:
    return [[v.value - v.low for v in values], [v.high - v.value for v in values]]
