"""A session for training in the current process, without a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hdvae.training.loop import Report
from hdvae.training.snapshot import Snapshot
from hdvae.workers import ALONE, Workers


class InMemory:
    """A `Session` that keeps the metrics of all reports in memory, and no snapshots.

    Args:
        on_report: called with the step and the metrics of each report.

    Attributes:
        reports: the metrics of each report by its step.
    """

    workers: Workers = ALONE

    def __init__(self, on_report: Callable[[int, Mapping[str, float]], None] | None = None) -> None:
        self.reports: dict[int, Mapping[str, float]] = {}
        self._on_report = on_report

    def latest(self) -> Snapshot | None:
        """None: training always starts at the beginning."""
        return None

    def report(self, report: Report, snapshot: Callable[[], Snapshot]) -> None:
        """Keep the metrics."""
        self.reports[report.step] = dict(report.metrics)
        if self._on_report is not None:
            self._on_report(report.step, report.metrics)

    def stops(self) -> bool:
        """False: training always runs to its end."""
        return False

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Keep nothing: training is never interrupted."""
