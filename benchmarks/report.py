"""A run as JSON, as tables in Markdown, and against an earlier one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sdedit.errors import SdeditError, reason

REVISION = 1
"""Bump when a reader of the old revision would misread the new files."""

Run = dict[str, Any]
"""revision, command, machine, load_before, load_after, peaks {precision: {library: GFLOP/s}}, complete, scenarios."""

COLUMNS = (
    "contender",
    "ms a step",
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


def read_run(path: Path) -> Run:
    """Raises SdeditError for what is no run of this revision."""
    try:
        run: Run = json.loads(path.read_text(encoding="utf-8"))
        if run["revision"] != REVISION:
            raise SdeditError(f"{path} is of revision {run['revision']}, this version reads {REVISION}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SdeditError(f"{path} is not a run of sdedit-bench: {reason(error)}") from None
    return run


def write_run(run: Run, path: Path) -> None:
    path.write_text(json.dumps(run, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def header(run: Run) -> str:
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    lines = [
        f"{machine['processor']}, {machine['threads']} threads, {' '.join(machine['features'])}.",
        f"Python {machine['python']}, {versions}; commit {machine['commit']}.",
        f"Load average {run['load_before']} before, {run['load_after']} after.",
    ]
    for precision, libraries in run["peaks"].items():
        rates = ", ".join(f"{library} {rate:.0f}" for library, rate in sorted(libraries.items()))
        lines.append(f"Matrix product, {precision}: {rates} GFLOP/s.")
    return "\n".join(lines)


def tables(run: Run) -> Iterator[str]:
    """A Markdown table a scenario, and the lines of what has no row of numbers."""
    for scenario in run["scenarios"]:
        yield f"### {scenario['title']}\n"
        yield f"Load average {scenario['load_before']} before, {scenario['load_after']} after.\n"
        if "failed" in scenario:
            yield f"Failed: {scenario['failed']}\n"
        measured = [row for row in scenario["rows"] if row["status"] == "measured"]
        if measured:
            yield "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|"
            yield from (
                "| " + " | ".join(cells(row, scenario, run["peaks"])) + " |"
                for row in sorted(measured, key=lambda row: -row["step_ms"]["median"])
            )
            yield ""
        for row in scenario["rows"]:
            if row["status"] != "measured":
                yield f"- {row['name']}: {row['status']}: {row['why']}"
        yield ""


def cells(row: dict[str, Any], scenario: dict[str, Any], peaks: dict[str, dict[str, float]]) -> list[str]:
    step = row["step_ms"]
    rate = gflops(row, scenario)
    peak = max(peaks.get(row["precision"], {}).values(), default=None)
    return [
        f"**{row['name']}**" if row["ours"] else row["name"],
        f"{step['median']:.2f}",
        f"{step['p5']:.2f} to {step['p95']:.2f}",
        f"{row['other_percent']:.2f} %",
        said(rate, ".0f"),
        said(100 * rate / peak if rate and peak else None, ".0f", " %"),
        str(row["evaluations"]),
        f"{row['images_per_second']:.3g}",
        said(row.get("cold_s"), ".2f", " s"),
        said(row.get("peak_mib"), ".0f", " MiB"),
        said(row.get("network_error"), ".1e"),
        said(row.get("edit_psnr"), ".1f", " dB"),
        said(row.get("step_speedup"), ".2f", "x"),
        said(row.get("edit_speedup"), ".1f", "x"),
    ]


def gflops(row: dict[str, Any], scenario: dict[str, Any]) -> float | None:
    """Of the network alone, by its median."""
    return (
        None if not scenario.get("gflop") else scenario["gflop"] * scenario["batch"] / row["network_ms"]["median"] * 1e3
    )


def said(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def compare(new: Run, old: Run) -> Iterator[str]:
    """What changed in the median of a step, in per cent; rows that only one of both has are named."""
    before = {(s["name"], r["name"]): r for s in old["scenarios"] for r in s["rows"]}
    after = {(s["name"], r["name"]): r for s in new["scenarios"] for r in s["rows"]}
    yield f"against {old['machine']['commit']} on {old['machine']['processor']}, load {old['load_before']}"
    for key in sorted(before.keys() | after.keys()):
        old_row, new_row = before.get(key, {}), after.get(key, {})
        name = ", ".join(key)
        if "step_ms" in old_row and "step_ms" in new_row:
            was, now = old_row["step_ms"]["median"], new_row["step_ms"]["median"]
            apart = (
                new_row["step_ms"]["p5"] > old_row["step_ms"]["p95"]
                or new_row["step_ms"]["p95"] < old_row["step_ms"]["p5"]
            )
            note = "" if apart else " (their p5 to p95 overlap)"
            yield f"{name}: {was:.2f} -> {now:.2f} ms a step, {100 * (now / was - 1):+.1f} %{note}"
        elif "step_ms" in old_row or "step_ms" in new_row:
            yield f"{name}: measured {'before' if 'step_ms' in old_row else 'now'} alone"
