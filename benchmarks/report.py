"""Write a run as JSON or as Markdown tables, and compare it with an earlier run."""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sdedit.console import to_json
from sdedit.errors import SdeditError, printable, reason
from sdedit.runtime.machine import why_busy

from .machine import describe

REVISION = 1
"""Raise it when a reader of the old revision would misread new files."""

Run = dict[str, Any]
"""Keys: revision, command, machine, load_before, load_after, busy (a phrase, or None), complete, scenarios, and
peaks {precision: {library: GFLOP/s}}. A load is None where the system does not tell it.
"""

COLUMNS = (
    "contender",
    "ms per step",
    "p5 to p95",
    "not network",
    "GFLOP/s",
    "of peak",
    "evaluations",
    "images/s",
    "cold start",
    "peak memory",
    "network error",
    "edit PSNR",
    "step",
    "edit",
)


def start_run(command: str, threads: int, load: float | None) -> Run:
    """The keys of a run that are known before it. load: the load average before it."""
    return {
        "revision": REVISION,
        "command": command,
        "machine": describe(threads),
        "load_before": load,
        "busy": why_busy(load),
    }


def read_run(path: Path) -> Run:
    """Read a run of --json. Raises SdeditError if the file is not a run of this revision."""
    try:
        run: Run = json.loads(path.read_text(encoding="utf-8"))
        if run["revision"] != REVISION:
            raise SdeditError(f"{path} has revision {run['revision']}; this version reads {REVISION}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SdeditError(f"{path} is not a run of sdedit-bench: {reason(error)}") from None
    return run


def printable_run(value: Any) -> Any:
    """The run with its texts for a terminal: a run of another machine may hold anything."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): printable_run(inner) for name, inner in value.items()}
    return [*map(printable_run, value)] if isinstance(value, list) else value


def write_run(run: Run, path: Path) -> None:
    path.write_text(to_json(run, sort_keys=True) + "\n", encoding="utf-8")


def header(run: Run) -> str:
    """Lines about the machine of the run."""
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, {' '.join(machine['features'])}.",
        f"Python {machine['python']}, {versions}; commit {machine['commit']}.",
        loads(run),
    ]
    if run.get("busy"):
        lines.append(f"The machine was busy: {run['busy']}.")
    for precision, libraries in run["peaks"].items():
        rates = ", ".join(f"{library} {rate:.0f}" for library, rate in sorted(libraries.items()))
        lines.append(f"Matrix product, {precision}: {rates} GFLOP/s.")
    return "\n".join(lines)


def tables(run: Run) -> Iterator[str]:
    """For each scenario a Markdown table of measured contenders, and a line for each of the others."""
    for scenario in run["scenarios"]:
        row_cells = partial(cells, scenario=scenario, peaks=run["peaks"])
        yield from table(scenario, loads(scenario), COLUMNS, row_cells)


def table(
    scenario: dict[str, Any], about: str, columns: Sequence[str], cells: Callable[[dict[str, Any]], list[str]]
) -> Iterator[str]:
    """The scenario's title, a line about it, measured contenders, the slowest first, and a line for each other one.

    cells: of a contender's row, one for each column.
    """
    yield f"### {scenario['title']}\n"
    yield f"{about}\n"
    if "failed" in scenario:
        yield f"Failed: {scenario['failed']}\n"
    measured = [row for row in scenario["rows"] if row["status"] == "measured"]
    if measured:
        yield "| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|"
        yield from (
            "| " + " | ".join(cells(row)) + " |" for row in sorted(measured, key=lambda row: -row["step_ms"]["median"])
        )
        yield ""
    yield from not_measured(scenario)


def not_measured(scenario: dict[str, Any]) -> Iterator[str]:
    """A line for each contender that was not measured, and an empty one."""
    for row in scenario["rows"]:
        if row["status"] != "measured":
            yield f"- {row['name']}: {row['status']}: {row['why']}"
    yield ""


def loads(run: dict[str, Any]) -> str:
    """The load averages of a run or of one of its scenarios."""
    before, after = ("unknown" if run[key] is None else run[key] for key in ("load_before", "load_after"))
    return f"Load average {before} before, {after} after."


def cells(row: dict[str, Any], scenario: dict[str, Any], peaks: dict[str, dict[str, float]]) -> list[str]:
    step = row["step_ms"]
    rate = gflops(row, scenario)
    peak = max(peaks.get(row["precision"], {}).values(), default=None)
    return [
        f"**{row['name']}**" if row["ours"] else row["name"],
        f"{step['median']:.2f}",
        f"{step['p5']:.2f} to {step['p95']:.2f}",
        f"{row['other_percent']:.2f} %",
        format_number(rate, ".0f"),
        format_number(100 * rate / peak if rate and peak else None, ".0f", " %"),
        str(row["evaluations"]),
        f"{row['images_per_second']:.3g}",
        format_number(row.get("cold_s"), ".2f", " s"),
        format_number(row.get("peak_mib"), ".0f", " MiB"),
        format_number(row.get("network_error"), ".1e"),
        format_number(row.get("edit_psnr"), ".1f", " dB"),
        format_number(row.get("step_speedup"), ".2f", "x"),
        format_number(row.get("edit_speedup"), ".1f", "x"),
    ]


def gflops(row: dict[str, Any], scenario: dict[str, Any]) -> float | None:
    """Rate of the network from its median time; None if its work is not known."""
    if not scenario.get("gflop"):
        return None
    return float(scenario["gflop"] * scenario["batch"] / row["network_ms"]["median"] * 1e3)


def format_number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def compare(new: Run, old: Run) -> Iterator[str]:
    """A line for each contender: how the median of its step changed, in per cent, or that one run alone has it."""
    before = {(s["name"], r["name"]): r for s in old["scenarios"] for r in s["rows"]}
    after = {(s["name"], r["name"]): r for s in new["scenarios"] for r in s["rows"]}
    yield f"compared with {old['machine']['commit']} on {old['machine']['processor']}. {loads(old)}"
    for key in sorted(before.keys() | after.keys()):
        old_row, new_row = before.get(key, {}), after.get(key, {})
        name = ", ".join(key)
        if "step_ms" in old_row and "step_ms" in new_row:
            was, now = old_row["step_ms"]["median"], new_row["step_ms"]["median"]
            apart = (
                new_row["step_ms"]["p5"] > old_row["step_ms"]["p95"]
                or new_row["step_ms"]["p95"] < old_row["step_ms"]["p5"]
            )
            note = "" if apart else " (p5 to p95 overlap)"
            yield f"{name}: {was:.2f} -> {now:.2f} ms per step, {100 * (now / was - 1):+.1f} %{note}"
        elif "step_ms" in old_row or "step_ms" in new_row:
            yield f"{name}: measured only {'before' if 'step_ms' in old_row else 'now'}"
