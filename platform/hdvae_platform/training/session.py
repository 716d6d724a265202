"""`RunSession`: what the training loop keeps of a run, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from hdvae.training.loop import Report
from hdvae.training.snapshot import Snapshot
from hdvae.workers import ALONE, Workers
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.journal import ELBO, Goal, Journal
from hdvae_platform.store.per_image import write_per_image
from hdvae_platform.training.computing import VALUE, changes
from hdvae_platform.training.messages import Notify, Reported, Resumed, Warned

OTHERWISE = (
    "the run goes on with other rounding than it began with, so its numbers are not those of an uninterrupted run"
)
"""What a user is told if a run resumes elsewhere; what differs follows."""


class RunSession:
    """Keeps a run on a storage: writes journal, values of each image and checkpoint, then sends the driver a message.

    Each of its calls raises `Fenced` once a newer attempt has begun.

    Args:
        attempt: the attempt at the run.
        notify: is called with each message.
        workers: the processes that train it.
        stops: whether training is to stop.
        goal: how checkpoints are compared.
        computing: on what the run computes (`hdvae_platform.training.computing`), kept in every checkpoint.
    """

    def __init__(
        self,
        attempt: Attempt,
        notify: Notify,
        workers: Workers = ALONE,
        stops: Callable[[], bool] = lambda: False,
        goal: Goal = ELBO,
        computing: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.workers, self.stops, self._goal, self._computing = workers, stops, goal, dict(computing)
        self._attempt, self._notify = attempt, notify
        self._journal = Journal(attempt.storage, attempt.run)
        self._checkpoints = Checkpoints(attempt.storage, attempt.run)

    def latest(self) -> Snapshot | None:
        """The newest readable checkpoint; the user is told of damaged newer ones, and if it was computed otherwise.

        One whose report is damaged is passed over: the run makes the report again.
        """
        self._attempt.begin()  # does nothing where the driver has begun it
        kept = set(self._checkpoints.steps()) & set(self._journal.steps())
        snapshot, faults = self._checkpoints.latest(without=kept - self._journal.readable(kept).keys())
        for fault in faults:
            self._notify(Warned(f"skipped a damaged checkpoint: {fault}", lasting=True))
        if snapshot is not None:
            self._notify(Resumed(snapshot.values["step"]))
            if changed := changes(snapshot.values.get(VALUE, {}), self._computing):
                self._notify(Warned(f"{OTHERWISE}: {changed}", lasting=True))
        return snapshot

    def report(self, report: Report, snapshot: Callable[[], Snapshot]) -> None:
        """Write what was measured at a step and the state there, then tell the driver."""
        step = report.step
        self._journal.append(step, report.metrics, report.costs, self._attempt)
        write_per_image(self._attempt, "valid", step, report.per_image, {"step": step})
        self.save(step, snapshot())
        self._notify(Reported(step, dict(report.metrics)))

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Keep a checkpoint, between reports too, and the best of those that were reported."""
        snapshot = replace(snapshot, values={**snapshot.values, VALUE: self._computing})
        best = self._journal.best(self._goal, [*self._checkpoints.steps(), step])
        self._checkpoints.save(step, snapshot, self._attempt, best)
