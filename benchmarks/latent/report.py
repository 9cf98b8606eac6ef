"""Tables of a run of `sdedit-bench --latent`."""

from collections.abc import Iterator
from typing import Any

from ..report import Run, format_number, loads, table

KIND = "latent"
"""A run has it as `kind`; each scenario has weights_mib, and rows with edit_s, load_s and first_s."""

COLUMNS = (
    "contender",
    "s per step",
    "p5 to p95",
    "edit",
    "load",
    "first picture",
    "peak memory",
    "edit PSNR",
    "step",
    "edit",
)


def tables(run: Run) -> Iterator[str]:
    """For each scenario a Markdown table of measured contenders, the slowest first, and a line for each other one."""
    for scenario in run["scenarios"]:
        size = format_number(scenario.get("weights_mib"), ".0f", " MiB")
        about = f"Weights of all networks in float32: {size}. {loads(scenario)}"
        yield from table(scenario, about, COLUMNS, cells)


def cells(row: dict[str, Any]) -> list[str]:
    step = row["step_ms"]
    return [
        f"**{row['name']}**" if row["ours"] else row["name"],
        f"{step['median'] / 1e3:.3g}",
        f"{step['p5'] / 1e3:.3g} to {step['p95'] / 1e3:.3g}",
        f"{row['edit_s']:.3g} s",
        f"{row['load_s']:.3g} s",
        f"{row['first_s']:.3g} s",
        format_number(row["peak_mib"], ".0f", " MiB"),
        format_number(row.get("edit_psnr"), ".1f", " dB"),
        format_number(row.get("step_speedup"), ".2f", "x"),
        format_number(row.get("edit_speedup"), ".2f", "x"),
    ]
