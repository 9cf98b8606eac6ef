"""Run scenarios: build contenders, check parity, time, start cold. A failure becomes a row; the rest goes on."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdedit.errors import reason
from sdedit.runtime.machine import load_average

from .case import Case, Contender, MissingError
from .cold import time_cold
from .contenders import CONTENDERS, OFFICIAL, Spec
from .measure import RefusedError, Samples, check_edit, check_network, interleave, run_edit, spread
from .scenarios import COLD_STEPS, OFFICIAL_EVALUATIONS, OUR_EVALUATIONS, Scenario

Row = dict[str, Any]
"""One contender in one scenario. status: measured, missing, refused, failed, skipped or interrupted; why: a line."""

QUICK_SECONDS = 15.0
COLD_STARTS = 3


@dataclass
class Suite:
    """Runs scenarios and reports them.

    threads: threads of each contender. deadline: time by time.perf_counter after which nothing is started.
    seconds: of timing per scenario; None: the scenario's own. quick: short timing, no contender that compiles first,
    one cold start each.
    """

    threads: int
    deadline: float = float("inf")
    quick: bool = False
    seconds: float | None = None
    say: Callable[[str], None] = print
    contenders: Mapping[str, Spec] = field(default_factory=lambda: CONTENDERS)
    interrupted: bool = False

    def run(self, wanted: Sequence[Scenario]) -> list[dict[str, Any]]:
        """A report of each scenario that was started."""
        reports = []
        with tempfile.TemporaryDirectory() as folder:
            for scenario in wanted:
                if self.interrupted or time.perf_counter() > self.deadline:
                    break
                reports.append(self._report(scenario, Path(folder)))
        return reports

    def _report(self, scenario: Scenario, folder: Path) -> dict[str, Any]:
        rows = {name: start_row(name, spec) for name, spec in self.contenders.items()}
        report: dict[str, Any] = {"name": scenario.name, "title": scenario.title, "batch": scenario.batch}
        report["load_before"] = load_average()
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
        asked = QUICK_SECONDS if self.quick else scenario.seconds
        seconds = asked if self.seconds is None else self.seconds
        seconds = max(0.0, min(seconds, self.deadline - time.perf_counter()))
        samples, complete = interleave(passed, OFFICIAL_EVALUATIONS, seconds)
        self.interrupted = self.interrupted or not complete
        for name, kept in samples.items():
            if kept.step:
                rows[name].update(status="measured", why="", **timings(kept, rows[name]["evaluations"], case.batch))

    def _prove(self, case: Case, scenario: Scenario, rows: dict[str, Row]) -> dict[str, Contender]:
        """Build the contenders and return those that pass. The first float32 edit is the reference for the others."""
        passed: dict[str, Contender] = {}
        reference: np.ndarray | None = None
        for name, spec in self.contenders.items():
            try:
                self._check_time(spec, scenario)
                contender = spec.build(case)
                rows[name]["version"] = contender.version
                rows[name]["network_error"] = check_network(contender, spec.precision)
                # kept pixels have no network error and would raise the PSNR
                result = run_edit(contender, scenario.parity_steps)[..., contender.problem.mask > 0]
                if reference is None and spec.precision == "float32":
                    reference = result
                elif reference is None:
                    raise RefusedError("there is no float32 edit to compare with")
                else:
                    rows[name]["edit_psnr"] = check_edit(result, reference, spec.precision)
                passed[name] = contender
            except Exception as error:  # any error of one contender: its row reports it
                rows[name].update(outcome(error))
            self.say(f"  {name}: {rows[name]['why'] if name not in passed else 'passed'}")
        return passed

    def _check_time(self, spec: Spec, scenario: Scenario) -> None:
        if time.perf_counter() > self.deadline:
            raise SkippedError("out of time")
        if spec.slow_start and self.quick:
            raise SkippedError("it compiles for minutes, too long for a quick run")
        if spec.slow_start and not scenario.compiled:
            raise SkippedError("it compiles for minutes and is measured in the first scenario")

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


def start_row(name: str, spec: Spec) -> Row:
    evaluations = OFFICIAL_EVALUATIONS if name.startswith("official") else OUR_EVALUATIONS
    row = {"name": name, "precision": spec.precision, "ours": spec.ours, "evaluations": evaluations}
    return {**row, "status": "interrupted", "why": "interrupted before it was timed"}


def outcome(error: Exception) -> Row:
    kinds = {MissingError: "missing", RefusedError: "refused", SkippedError: "skipped"}
    if type(error) in kinds:
        return {"status": kinds[type(error)], "why": str(error)}
    return {"status": "failed", "why": f"{type(error).__name__}: {reason(error)}"}


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
