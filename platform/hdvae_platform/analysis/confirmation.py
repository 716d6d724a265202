"""The best trials of searches, trained again with fresh seeds.

A trial is chosen for its value in the search, so that value is too good on average.
Its values with fresh seeds are free of the luck of the seeds. They are free of the luck with the images too if they are
measured on held-out ones; on the same validation images they are not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.analysis.labels import distinct_labels, marked
from hdvae_platform.analysis.run_settings import PART, Condition, varied_in
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import Constraints, is_feasible
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.study_run import StudyRun, confirmation_runs, search_runs, study_run


@dataclass(frozen=True)
class Confirmation:
    """One of the best trials of a search in one metric, and its runs with fresh seeds.

    Attributes:
        study: its name.
        trial: number of the trial.
        settings: the varied settings: dotted path → value.
        metric: full name of a metric that the search optimised or limited.
        search: the mean of the metric over the seeds of the search.
        runs: the complete runs with fresh seeds that have a finite value.
        lost: how many further runs ended without a finite value.
        unfinished: how many runs have not ended.
        sign: 1 if the metric was maximised, −1 if it was minimised, 0 if it was only limited.
        held_out: whether the fresh runs are evaluated on images that the search did not see.
        constraints: of the search.
    """

    study: str
    trial: int
    settings: dict[str, Any]
    metric: str
    search: float
    runs: Sequence[TrackedRun]
    lost: int
    unfinished: int
    sign: int
    held_out: bool = False
    constraints: Constraints = field(default_factory=dict)

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
        """The mean over the fresh seeds with its 95% interval; None without a run."""
        return interval(self.values) if self.runs else None

    @property
    def shrinkage(self) -> float | None:
        """By how much the value in the search was better than the confirmed one; None without a run.

        It is None for a metric that the search only limited too: less of it is no better.
        """
        return None if self.confirmed is None or not self.sign else self.sign * (self.search - self.confirmed.mean)

    @property
    def limit(self) -> str:
        """The limits of the metric in words; empty for none."""
        return self.constraints[self.metric].words if self.metric in self.constraints else ""

    @property
    def title(self) -> str:
        """The metric, with its limits."""
        return f"{self.metric}, {self.limit}" if self.limit else self.metric

    @property
    def feasible(self) -> bool | None:
        """Whether the means over the fresh seeds keep the constraints; None without constraints, or without a run."""
        if not self.constraints or not self.runs:
            return None
        means = {
            name: statistics.fmean(run.metrics.get(name, math.nan) for run in self.runs) for name in self.constraints
        }
        return is_feasible(self.constraints, means)

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        names = (
            "study",
            "trial",
            "metric",
            "limit",
            "search",
            "seeds",
            "lost",
            "unfinished",
            "shrinkage",
            "held_out",
            "feasible",
        )
        confirmed = None if self.confirmed is None else {**vars(self.confirmed), "values": self.values}
        return {
            "arm": self.settings,
            **{name: getattr(self, name) for name in names},
            "handles": [run.handle for run in self.runs],
            "run_ids": [run.run_id for run in self.runs],
            "confirmed": confirmed,
        }


def confirmed_labels(confirmed: Sequence[Confirmation]) -> list[str]:
    """The settings of each confirmed trial in words, and that it is infeasible on its fresh seeds where it is."""
    labels = distinct_labels([one.settings for one in confirmed])
    return [marked(label, one.feasible) for label, one in zip(labels, confirmed, strict=True)]


def images_of(confirmed: Sequence[Confirmation]) -> str:
    """On which images confirmed trials were evaluated, as a sentence; empty without any."""
    if not confirmed:
        return ""
    if all(one.held_out for one in confirmed):
        return (
            "The fresh seeds are evaluated on held-out validation images, which the search did not see; the shrinkage "
            "includes the difference between the two halves of the images."
        )
    return (
        "The fresh seeds are evaluated on the same validation images as the search: what was luck with these images "
        "remains. `confirm: {images: held_out}` holds half of them out of the search."
    )


def fresh_runs(confirmed: Sequence[Confirmation]) -> list[TrackedRun]:
    """The runs with fresh seeds, each once."""
    return list({run.run_id: run for one in confirmed for run in one.runs}.values())


def confirmations(client: Client, studies: Sequence[str], where: Sequence[Condition] = ()) -> list[Confirmation]:
    """The confirmed trials that fulfil the conditions `where`, study by study; in each the best by the search first.

    Of a search for several metrics, or with constraints, each trial stands in all of their metrics, one after another.
    """
    return [one for study in dict.fromkeys(studies) for one in _confirmations_of(client, study, where)]


def _confirmations_of(client: Client, study: str, where: Sequence[Condition]) -> list[Confirmation]:
    fresh = [run for run in confirmation_runs(client, study) if all(one.holds(run) for one in where)]
    parent = study_run(client, study) if fresh else None
    if parent is None:
        return []
    by_trial: dict[int, list[TrackedRun]] = {}
    for run in fresh:
        by_trial.setdefault(run.trial, []).append(run)
    searched = [run for run in search_runs(client, study) if run.trial in by_trial]
    signs = {metric: 1 if maximises else -1 for metric, maximises in parent.objectives.items()} | {
        metric: 0 for metric in parent.constraints if metric not in parent.objectives
    }
    confirmed = {
        trial: [_confirmation(parent, trial, metric, sign, searched, runs) for metric, sign in signs.items()]
        for trial, runs in by_trial.items()
    }
    ranked = sorted(confirmed.items(), key=lambda item: (-item[1][0].sign * item[1][0].search, item[0]))
    return [one for _, each in ranked for one in each if math.isfinite(one.search)]


def _has_value(run: TrackedRun, metric: str) -> bool:
    """Whether a run is complete and its metric finite."""
    return run.state == RunState.COMPLETE and math.isfinite(run.metrics.get(metric, math.nan))


def _confirmation(
    parent: StudyRun, trial: int, metric: str, sign: int, searched: Sequence[TrackedRun], runs: Sequence[TrackedRun]
) -> Confirmation:
    """A confirmed trial in one metric; its value of the search is NaN without one.

    Args:
        parent: the run of its study as a whole.
        trial: its number.
        metric: full name.
        sign: 1 if the metric was maximised, −1 if it was minimised, 0 if it was only limited.
        searched: the runs of the search.
        runs: the trial's runs with fresh seeds.
    """
    before = [run.metrics[metric] for run in searched if run.trial == trial and _has_value(run, metric)]
    ended = sum(run.state is not None and run.state.is_terminal for run in runs)
    counted = sorted((run for run in runs if _has_value(run, metric)), key=lambda run: run.seed)
    return Confirmation(
        study=parent.study,
        trial=trial,
        settings=varied_in(runs[0]),
        metric=metric,
        search=statistics.fmean(before) if before else math.nan,
        runs=counted,
        lost=ended - len(counted),
        unfinished=len(runs) - ended,
        sign=sign,
        held_out=runs[0].params.get(PART) == "held_out",
        constraints=parent.constraints,
    )
