"""Draw three pictures of a run: throughput by batch, parts of a step's time, and error by speed."""

from pathlib import Path
from typing import Any

from sdedit.errors import SdeditError, install_hint, raise_interrupt

from .report import Run


def plot(run: Run, folder: Path) -> list[Path]:
    """Write the pictures that the run has numbers for into `folder` and return their paths.

    Raises SdeditError if matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise_interrupt(error)
        raise SdeditError(f"--plot needs matplotlib: {install_hint('bench')}") from None
    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in (("batch", batches), ("step", step_parts), ("error", errors)):
        figure = draw(run)
        if figure is not None:
            written.append(folder / f"benchmark-{name}.png")
            figure.savefig(written[-1], dpi=110)
    return written


def measured(scenario: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for row in scenario["rows"] if row["status"] == "measured"]
    return sorted(rows, key=lambda row: -row["step_ms"]["median"])


def new_axes(width: float = 9, height: float = 5) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def batches(run: Run) -> Any:
    """Steps of one image per second, by batch, of the scenarios that differ in the batch alone."""
    named = [s for s in run["scenarios"] if not s["name"].startswith("official")]
    by_batch = {s["batch"]: s for s in named if s["name"].endswith(("-masked", f"-batch{s['batch']}"))}
    if len(by_batch) < 2:
        return None
    axes = new_axes()
    for name in {row["name"]: None for s in by_batch.values() for row in measured(s)}:
        points = [
            (b, 1e3 * b / r["step_ms"]["median"]) for b, s in by_batch.items() for r in measured(s) if r["name"] == name
        ]
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set(xlabel="images at once", ylabel="steps of one image per second", yscale="log", xticks=sorted(by_batch))
    axes.legend(fontsize="small")
    return axes.figure


def step_parts(run: Run) -> Any:
    """Time of the network and of everything else in a step, in the first scenario."""
    scenario = next((s for s in run["scenarios"] if measured(s)), None)
    if scenario is None:
        return None
    axes = new_axes()
    rows = measured(scenario)
    names, network = [row["name"] for row in rows], [row["network_ms"]["median"] for row in rows]
    other = [row["step_ms"]["median"] - row["network_ms"]["median"] for row in rows]
    axes.barh(names, network, label="network")
    axes.barh(names, other, left=network, label="everything else")
    axes.set(xlabel="ms per step", title=scenario["title"])
    axes.legend()
    return axes.figure


def errors(run: Run) -> Any:
    """PSNR of an edit against float32, by the time of a step, in the first scenario."""
    scenario = next((s for s in run["scenarios"] if measured(s)), None)
    rows = [row for row in measured(scenario or {"rows": []}) if row.get("edit_psnr") is not None]
    if scenario is None or not rows:
        return None
    axes = new_axes()
    for row in rows:
        axes.plot(row["step_ms"]["median"], min(row["edit_psnr"], 120), "s" if row["ours"] else "o", label=row["name"])
    axes.set(xlabel="ms per step", ylabel="PSNR of an edit against float32, dB", xscale="log", title=scenario["title"])
    axes.legend(fontsize="small")
    return axes.figure
