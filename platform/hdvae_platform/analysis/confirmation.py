"""The winners of searches, on seeds that the search had not seen: their values there were not chosen for being high."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae_platform.analysis.arms import setting, varied_in
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.study_run import confirmation_runs, search_runs, study_run


@dataclass(frozen=True)
class Confirmation:
    """A winner of a search, and what it is worth on seeds that the search had not seen.

    Attributes:
        study: of which.
        trial: its number.
        arm: dotted path → value.
        metric: what the search was for.
        search: the mean over the seeds of the search.
        runs: on the fresh seeds.
        lost: how many ended without a finite value.
        unfinished: how many have not ended.
        sign: 1 if the metric was maximised, −1 if minimised.
    """

    study: str
    trial: int
    arm: dict[str, Any]
    metric: str
    search: float
    runs: Sequence[TrackedRun]
    lost: int
    unfinished: int
    sign: int

    @property
    def seeds(self) -> list[int]:
        """The fresh seeds."""
        return [run.seed for run in self.runs]

    @property
    def values(self) -> list[float]:
        """The metric of each fresh seed."""
        return [run.metrics[self.metric] for run in self.runs]

    @property
    def confirmed(self) -> Interval | None:
        """The mean over the fresh seeds; None if there is no value of any."""
        return interval(self.values) if self.runs else None

    @property
    def shrinkage(self) -> float | None:
        """By how much the search promised too much: what was luck in its choice."""
        return None if self.confirmed is None else self.sign * (self.search - self.confirmed.mean)

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        names = ("study", "trial", "arm", "metric", "search", "seeds", "lost", "unfinished", "shrinkage")
        kept = {key: getattr(self, key) for key in names}
        found = {"confirmed": None if self.confirmed is None else {**vars(self.confirmed), "values": self.values}}
        return {**kept, "run_ids": [run.run_id for run in self.runs], **found}


def confirmations(client: Client, studies: Sequence[str], where: Mapping[str, Any] | None = None) -> list[Confirmation]:
    """The confirmed winners of the studies that have the settings `where`, each study's best by search value first."""
    return [one for study in dict.fromkeys(studies) for one in _confirmations_of(client, study, where or {})]


def _confirmations_of(client: Client, study: str, where: Mapping[str, Any]) -> list[Confirmation]:
    fresh = [
        run
        for run in confirmation_runs(client, study)
        if all(setting(run, path) == value for path, value in where.items())
    ]
    parent = study_run(client, study) if fresh else None
    if parent is None:
        return []
    metric, sign = parent.metric, 1 if parent.maximises else -1
    by_trial: dict[int, list[TrackedRun]] = {}
    for run in fresh:
        by_trial.setdefault(run.trial, []).append(run)
    searched: dict[int, list[float]] = {}
    for run in search_runs(client, study):
        if _counts(run, metric):
            searched.setdefault(run.trial, []).append(run.metrics[metric])
    found = [
        _confirmation(study, trial, metric, sign, statistics.fmean(searched[trial]), runs)
        for trial, runs in by_trial.items()
        if trial in searched
    ]
    return sorted(found, key=lambda one: (-one.sign * one.search, one.trial))


def _counts(run: TrackedRun, metric: str) -> bool:
    """Whether a run is complete, with a finite value."""
    return run.state == RunState.COMPLETE and math.isfinite(run.metrics.get(metric, math.nan))


def _confirmation(
    study: str, trial: int, metric: str, sign: int, search: float, runs: Sequence[TrackedRun]
) -> Confirmation:
    ended = sum(run.state is not None and run.state.is_terminal for run in runs)
    counted = sorted((run for run in runs if _counts(run, metric)), key=lambda run: run.seed)
    return Confirmation(
        study=study,
        trial=trial,
        arm=varied_in(runs[0]),
        metric=metric,
        search=search,
        runs=counted,
        lost=ended - len(counted),
        unfinished=len(runs) - ended,
        sign=sign,
    )
