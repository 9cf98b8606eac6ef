"""Run the contenders, each in processes of its own, and compare their pictures. A failure becomes a row."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdedit.errors import reason
from sdedit.runtime.bundle import read_bundle
from sdedit.runtime.machine import load_average

from ..contenders import not_installed
from ..measure import RefusedError, check_edit, spread
from ..suite import LateError, NotInstalledError, Row, outcome
from .child import Measured, run_child
from .contenders import CONTENDERS, DIFFUSERS, Spec
from .scenarios import Request, Scenario, prepare, weights_mib
from .shapes import Shape

CHILD_SECONDS = 600.0
"""A process that takes longer is ended."""


@dataclass
class LatentSuite:
    """Runs scenarios of one shape. folder: where the models are kept. seconds: of a scenario, once its models are
    made; nothing is started later."""

    folder: Path
    threads: int
    seconds: float = float("inf")
    say: Callable[[str], None] = print
    contenders: Mapping[str, Spec] = field(default_factory=lambda: CONTENDERS)
    interrupted: bool = False

    def run(self, shape: Shape, scenario: Scenario, work: Path) -> dict[str, Any]:
        """The report of one scenario. work: a folder for pictures."""
        self.say(f"{shape.name}, {scenario.title}: preparing")
        title = f"{shape.name}, {shape.side}x{shape.side}: {scenario.title}"
        report: dict[str, Any] = {
            "name": f"{shape.name}-{scenario.name}",
            "title": title,
            "load_before": load_average(),
        }
        rows = {name: start_row(name, spec) for name, spec in self.contenders.items()}
        try:
            request = prepare(shape, scenario, self.folder, self.threads, self.say)
            report["weights_mib"] = weights_mib(read_bundle(request.bundle))
            self._measure(shape, request, rows, work)
        except KeyboardInterrupt:
            self.interrupted = True
        except Exception as error:  # any error of one scenario: the others still run
            report["failed"] = f"{type(error).__name__}: {reason(error)}"
            self.say(f"  failed: {report['failed']}")
        return {**report, "load_after": load_average(), "rows": list(rows.values())}

    def _measure(self, shape: Shape, request: Request, rows: dict[str, Row], work: Path) -> None:
        """Let the contenders take turns, process by process, and judge those that ended well, also after Ctrl-C."""
        deadline = time.perf_counter() + self.seconds
        file = work / "request.json"
        request.dump(file)
        taken: dict[str, list[Measured]] = {name: [] for name in rows}
        try:
            for turn in range(shape.rounds):
                for name, spec in self.contenders.items():
                    if turn == 0 or (taken[name] and not spec.slow_start):
                        self._take_turn(name, spec, file, taken[name], rows[name], deadline)
        finally:
            ended = {name: found for name, found in taken.items() if found}
            for name, found in ended.items():
                rows[name].update(timings(found))
            judge({name: read_picture(file.with_name(f"{name}.png")) for name in ended}, rows)
            compare_with_diffusers(rows)

    def _take_turn(self, name: str, spec: Spec, file: Path, taken: list[Measured], row: Row, deadline: float) -> None:
        try:
            if why := not_installed(spec.needs):
                raise NotInstalledError(why)
            left = min(CHILD_SECONDS, deadline - time.perf_counter())
            if left <= 0:
                raise LateError("out of time")
            try:
                taken.append(run_child(file, name, file.with_name(f"{name}.png"), left))
            except TimeoutError as error:
                raise LateError(str(error)) from None
        except Exception as error:  # any error of one contender: its row reports it
            if not taken:
                row.update(outcome(error))
        if not taken:
            self.say(f"  {name}: {row['why']}")
        else:
            self.say(f"  {name}: {taken[-1]['edits'][-1]['seconds']:.2f} s an edit")


def start_row(name: str, spec: Spec) -> Row:
    row = {"name": name, "precision": spec.precision, "ours": spec.ours}
    return {**row, "status": "interrupted", "why": "interrupted before it was timed"}


def timings(taken: list[Measured]) -> Row:
    """The part of a row that the processes of its contender measured."""
    edits = [found["edits"] for found in taken]
    peaks = [found["peak_mib"] for found in taken if found["peak_mib"] is not None]
    steps = [1e3 * seconds for each in edits for seconds in each[-1]["steps"]]
    return {
        "status": "measured",
        "why": "",
        "version": taken[0]["version"],
        "step_ms": spread(steps),
        "edit_s": statistics.median(each[-1]["seconds"] for each in edits),
        "load_s": statistics.median(found["load_s"] for found in taken),
        "first_s": statistics.median(found["load_s"] + found["edits"][0]["seconds"] for found in taken),
        "peak_mib": max(peaks) if peaks else None,
    }


def read_picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image).astype(np.float32)


def judge(pictures: Mapping[str, np.ndarray], rows: dict[str, Row]) -> None:
    """Compare each picture with diffusers' or, without it, with the first one in float32; refuse those that differ."""
    precise = [name for name in pictures if rows[name]["precision"] == "float32"]
    reference = DIFFUSERS if DIFFUSERS in precise else next(iter(precise), None)
    for name, picture in pictures.items():
        try:
            if reference is None:
                raise RefusedError("there is no float32 edit to compare with")
            if name != reference:
                rows[name]["edit_psnr"] = check_edit(picture, pictures[reference], rows[name]["precision"])
        except RefusedError as error:
            rows[name].update(outcome(error))


def compare_with_diffusers(rows: Mapping[str, Row]) -> None:
    """Add how many times as fast as diffusers each is: a step, and a whole edit."""
    base = rows.get(DIFFUSERS, {})
    if base.get("status") != "measured":
        return
    for row in rows.values():
        if row["status"] == "measured":
            row["step_speedup"] = base["step_ms"]["median"] / row["step_ms"]["median"]
            row["edit_speedup"] = base["edit_s"] / row["edit_s"]
