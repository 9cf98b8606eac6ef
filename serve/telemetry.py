"""Counters and times of the server, as Prometheus reads them."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .problems import Problem
from .wire import Finished

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the histogram's cells."""

OUTCOMES = {409: "cancelled", 499: "cancelled", 503: "refused"}
"""Outcome of an edit by the status of its problem; all others failed."""

OF_DEVICE = {
    "edits_in_flight": "Edits in flight on a device",
    "wait_seconds": "Estimated wait of a new edit on a device",
    "lost": "1 if the device is lost, else 0",
}
"""Gauges of each device by the ends of their names."""


class Telemetry:
    """The metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._edits = Counter("sdedit_edits", "Edits by outcome", ["outcome"], registry=self._registry)
        self._seconds = Histogram(
            "sdedit_edit_seconds", "Seconds from taking an edit to its result", buckets=SECONDS, registry=self._registry
        )
        self._evaluations = Counter("sdedit_evaluations", "Network evaluations of done edits", registry=self._registry)
        self._answers = Counter("sdedit_answers", "Answers by status", ["status"], registry=self._registry)
        self._slow = Counter("sdedit_slow_connections", "Connections closed as too slow", registry=self._registry)
        self._jobs = Gauge("sdedit_edits_in_flight", "Edits in flight", registry=self._registry)
        self._wait = Gauge("sdedit_wait_seconds", "Estimated wait of a new edit", registry=self._registry)
        self._begun = Counter("sdedit_device_edits", "Edits begun on a device", ["device"], registry=self._registry)
        self._of_device = {
            name: Gauge(f"sdedit_device_{name}", text, ["device"], registry=self._registry)
            for name, text in OF_DEVICE.items()
        }
        for outcome in ("done", "failed", *OUTCOMES.values()):
            self._edits.labels(outcome)

    def watch(self, jobs: Callable[[], float], wait: Callable[[], float]) -> None:
        """Read the gauges from these functions."""
        self._jobs.set_function(jobs)
        self._wait.set_function(wait)

    def watch_device(self, device: str, **gauges: Callable[[], float]) -> None:
        """Read the gauges of OF_DEVICE from these functions."""
        self._begun.labels(device)
        for name, function in gauges.items():
            self._of_device[name].labels(device).set_function(function)

    def began_on(self, device: str) -> None:
        """Count an edit that begins, or begins again, on a device."""
        self._begun.labels(device).inc()

    def ended(self, end: Finished | Problem, seconds: float) -> None:
        """Count an edit that has ended, after so many seconds."""
        if isinstance(end, Problem):
            self._edits.labels(OUTCOMES.get(end.status, "failed")).inc()
            return
        self._edits.labels("done").inc()
        self._seconds.observe(seconds)
        self._evaluations.inc(end.timings["evaluations"])

    def answered(self, status: int) -> None:
        """Count an answer."""
        self._answers.labels(str(status)).inc()

    def closed_slow(self) -> None:
        """Count a connection that was closed as too slow."""
        self._slow.inc()

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
