"""Run scenarios: build contenders, check parity, time, start cold. A failure becomes a row; the rest goes on."""

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import reason
from sdedit.runtime.machine import load_average

from .case import Case, Contender, MissingError
from .cold import time_cold
from .contenders import CONTENDERS, OFFICIAL, Spec, not_installed
from .measure import RefusedError, Samples, check_edit, check_network, interleave, run_edit, spread
from .scenarios import COLD_STEPS, OFFICIAL_EVALUATIONS, OUR_EVALUATIONS, Scenario

Row = dict[str, Any]
"""One contender in one scenario. status: measured, or why not (OUTCOMES, failed, interrupted); why: a line."""

QUICK_SECONDS = 15.0
COLD_STARTS = 3


@dataclass
class Suite:
    """Runs scenarios and reports them.

    threads: threads of each contender. deadline: time by time.perf_counter after which nothing is started.
    seconds: of timing per scenario; None: the scenario's own, for the share of contenders that take part. quick: short
    timing, no contender that compiles first, one cold start each.
    """

    threads: int
    deadline: float = float("inf")
    quick: bool = False
    seconds: float | None = None
    say: Callable[[str], None] = print
    contenders: Mapping[str, Spec] = field(default_factory=lambda: CONTENDERS)
    interrupted: bool = False

    def run(self, wanted: Sequence[Scenario]) -> list[dict[str, Any]]:
        """A report of each scenario, until Ctrl-C."""
        reports = []
        with tempfile.TemporaryDirectory() as folder:
            for scenario in wanted:
                if self.interrupted:
                    break
                reports.append(self._report(scenario, Path(folder)))
        return reports

    def left_out(self, wanted: Sequence[Scenario]) -> list[str]:
        """A line for each package that is not installed: what is not measured for want of it."""
        found: dict[str, list[str]] = {}
        for name, needs in [(n, s.needs) for n, s in self.contenders.items()] + [(s.name, s.needs) for s in wanted]:
            if why := not_installed(needs):
                found.setdefault(why, []).append(name)
        return [f"{why}; left out: {'; '.join(names)}" for why, names in found.items()]

    def _report(self, scenario: Scenario, folder: Path) -> dict[str, Any]:
        rows = {name: start_row(name, spec) for name, spec in self.contenders.items()}
        report: dict[str, Any] = {"name": scenario.name, "title": scenario.title, "batch": scenario.batch}
        report["load_before"] = load_average()
        late = "out of time" if time.perf_counter() > self.deadline else None
        if why := not_installed(scenario.needs) or late:
            self.say(f"{scenario.title}: {why}")
            return {**report, "failed": why, "load_after": report["load_before"], "rows": []}
        try:
            self.say(f"{scenario.title}: preparing")
            bundle, weights = scenario.prepare(folder)
            case = scenario.case(bundle, weights, self.threads)
            report["gflop"] = gflop(weights)
            self._time(case, scenario, rows)
            if scenario.cold and not self.interrupted:
                self._start_cold(case, rows, folder)
        except KeyboardInterrupt:
            self.interrupted = True
        except Exception as error:  # any error of one scenario: the others still run
            report["failed"] = f"{type(error).__name__}: {reason(error)}"
            self.say(f"  failed: {report['failed']}")
            rows = {name: row for name, row in rows.items() if row["status"] == "measured"}
        report["load_after"] = load_average()
        report["rows"] = list(rows.values())
        compare_with_official(rows)
        return report

    def _time(self, case: Case, scenario: Scenario, rows: dict[str, Row]) -> None:
        passed = self._prove(case, scenario, rows)
        self.say(f"  {len(passed)} contenders take turns")
        seconds = self._seconds(scenario)
        if self.seconds is None:
            seconds *= len(passed) / len(self.contenders)
        seconds = max(0.0, min(seconds, self.deadline - time.perf_counter()))
        samples, complete = interleave(passed, OFFICIAL_EVALUATIONS, seconds)
        self.interrupted = self.interrupted or not complete
        for name, kept in samples.items():
            if kept.step:
                rows[name].update(status="measured", why="", **timings(kept, rows[name]["evaluations"], case.batch))

    def _prove(self, case: Case, scenario: Scenario, rows: dict[str, Row]) -> dict[str, Contender]:
        """Build the contenders and return those that pass."""
        built: dict[str, Contender] = {}
        edits: dict[str, np.ndarray] = {}
        for name, spec in self.contenders.items():
            try:
                self._check(spec, scenario)
                contender = spec.build(case)
                rows[name]["version"] = contender.version
                rows[name]["network_error"] = check_network(contender, spec.precision)
                # kept pixels have no network error and would raise the PSNR
                edits[name] = run_edit(contender, scenario.parity_steps)[..., contender.problem.mask > 0]
                built[name] = contender
            except Exception as error:  # any error of one contender: its row reports it
                rows[name].update(outcome(error))
            if rows[name]["status"] != "left out":  # said before the first scenario
                self.say(f"  {name}: {'made an edit' if name in built else rows[name]['why']}")
        return {name: built[name] for name, edit in edits.items() if self._judge(name, edit, edits, rows[name])}

    def _judge(self, name: str, edit: np.ndarray, edits: Mapping[str, np.ndarray], row: Row) -> bool:
        """Whether the edit agrees with the official loop's or, without it, with the first one in float32."""
        precise = [other for other in edits if self.contenders[other].precision == "float32"]
        reference = OFFICIAL if OFFICIAL in precise else next(iter(precise), None)
        try:
            if reference is None:
                raise RefusedError("there is no float32 edit to compare with")
            if name != reference:
                row["edit_psnr"] = check_edit(edit, edits[reference], self.contenders[name].precision)
        except RefusedError as error:
            row.update(outcome(error))
            self.say(f"  {name}: {row['why']}")
            return False
        return True

    def _seconds(self, scenario: Scenario) -> float:
        if self.seconds is not None:
            return self.seconds
        return QUICK_SECONDS if self.quick else scenario.seconds

    def _check(self, spec: Spec, scenario: Scenario) -> None:
        """Raise the reason why the contender is not built. Peers leave time to measure ours."""
        if why := not_installed(spec.needs):
            raise NotInstalledError(why)
        if spec.slow_start and self.quick:
            raise SkippedError("it compiles for minutes, too long for a quick run")
        if spec.slow_start and not scenario.compiled:
            raise SkippedError("it compiles for minutes and is measured in the first scenario")
        if time.perf_counter() > self.deadline - (0 if spec.ours else self._seconds(scenario)):
            raise LateError("out of time")

    def _start_cold(self, case: Case, rows: dict[str, Row], folder: Path) -> None:
        """Time cold starts of the measured contenders, in turns."""
        file = folder / "case.json"
        case.dump(file)
        found: dict[str, list[tuple[float, float | None]]] = {}
        for turn in range(1 if self.quick else COLD_STARTS):
            for name, row in rows.items():
                slow = turn > 0 and self.contenders[name].slow_start
                if row["status"] != "measured" or slow or time.perf_counter() > self.deadline:
                    continue
                try:
                    found.setdefault(name, []).append(time_cold(file, name, COLD_STEPS))
                except RuntimeError as error:
                    row["cold_why"] = str(error)
        for name, starts in found.items():
            rows[name]["cold_s"] = statistics.median(seconds for seconds, _ in starts)
            peaks = [peak for _, peak in starts if peak is not None]
            rows[name]["peak_mib"] = max(peaks) if peaks else None


class SkippedError(Exception):
    """A contender is left out on purpose; the message says why."""


class NotInstalledError(Exception):
    """A package of a contender is not installed."""


class LateError(Exception):
    """There is no time left for a contender."""


OUTCOMES: dict[type[Exception], str] = {
    NotInstalledError: "left out",
    MissingError: "missing",
    RefusedError: "refused",
    SkippedError: "skipped",
    LateError: "late",
}
"""Status of a row by the error that says why the contender is not measured; every other error: failed."""

EXPECTED = ("measured", "missing", "skipped")
"""Status of rows that tell of no fault: this machine or bundle has not what the contender runs, or it is left out."""


def start_row(name: str, spec: Spec) -> Row:
    evaluations = OFFICIAL_EVALUATIONS if name.startswith("official") else OUR_EVALUATIONS
    row = {"name": name, "precision": spec.precision, "ours": spec.ours, "evaluations": evaluations}
    return {**row, "status": "interrupted", "why": "interrupted before it was timed"}


def outcome(error: Exception) -> Row:
    if type(error) in OUTCOMES:
        return {"status": OUTCOMES[type(error)], "why": str(error)}
    return {"status": "failed", "why": f"{type(error).__name__}: {reason(error)}"}


def faults(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each reason why something that was asked for is not measured, with the number of rows that it cost."""
    whys = [report["failed"] for report in reports if "failed" in report]
    whys += [row["why"] for report in reports for row in report["rows"] if row["status"] not in EXPECTED]
    return [f"{why} ({count} times)" if count > 1 else why for why, count in Counter(whys).items()]


def timings(kept: Samples, evaluations: int, batch: int) -> Row:
    step, network = spread(kept.step), spread(kept.network)
    return {
        "step_ms": step,
        "network_ms": network,
        "other_percent": 100 * (1 - sum(kept.network) / sum(kept.step)),
        "images_per_second": 1e3 * batch / (step["median"] * evaluations),
    }


def compare_with_official(rows: Mapping[str, Row]) -> None:
    """Add speed-ups over the official loop: of a step, and of an edit with each contender's number of evaluations."""
    base = rows.get(OFFICIAL, {})
    if "step_ms" not in base:
        return
    for row in rows.values():
        if "step_ms" in row:
            row["step_speedup"] = base["step_ms"]["median"] / row["step_ms"]["median"]
            row["edit_speedup"] = row["images_per_second"] / base["images_per_second"]


def gflop(weights: Path | None) -> float | None:
    """GFLOP of one evaluation of one image: two operations per multiply-add of convolutions and matrix products."""
    if weights is None:
        return None
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from .weights import load_network

    network = load_network(weights).to("meta")
    config = network.config
    x = torch.zeros(1, config.channels, config.size, config.size, device="meta")
    with FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(1, device="meta"))
    return float(counter.get_total_flops()) / 1e9
