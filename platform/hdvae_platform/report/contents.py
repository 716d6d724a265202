"""The contents of a report as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae_platform.analysis.answers import Answer
from hdvae_platform.analysis.confirmation import Confirmation, fresh_runs
from hdvae_platform.analysis.labels import arm_names_note
from hdvae_platform.analysis.metric_names import BIAS
from hdvae_platform.analysis.verdicts import Verdict
from hdvae_platform.report.arm_report import ArmReport, PrunedRun, quality
from hdvae_platform.report.differences import Difference, differences
from hdvae_platform.running.status import StudyStatus
from hdvae_platform.store.places import Places
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import TrackedRun


@dataclass(frozen=True)
class Contents:
    """Everything that a report says.

    Attributes:
        study: the study as recorded in the study database.
        places: where the study is stored.
        status: its progress, as in `hdvae study status`.
        arms: in the order of the trials; only the best, if there are more than `MAX_ARMS`.
        total_arms: number of arms with a run in MLflow.
        not_begun: number of further parameter sets of which no run has begun.
        sent: number of complete runs in MLflow, of the search and of confirmations.
        unsent: number of complete runs that MLflow lacks; their numbers are missing from the means.
        trials: number of each trial → name of its arm.
        tracked: complete runs of the arms and of confirmations, by MLflow's id.
        pages: address of MLflow's page of each run, by MLflow's id.
        parent: MLflow's id of the study's run; None if there is none.
        confirmed: the best trials of the search, trained again with fresh seeds.
        verdicts: one for each expectation of the study file.
        restated: when the expectations were last changed after the study began, in seconds since 1970; None if never.
        importances: share of each setting in what makes a good trial; or why there are none.
        pruned: pruned runs with their curves, at most `MAX_PRUNED`.
        answer: the best trials.
        images: number of validation images that were evaluated; None if the storage does not tell.
    """

    study: Study
    places: Places
    status: StudyStatus
    arms: Sequence[ArmReport]
    total_arms: int
    not_begun: int
    sent: int
    unsent: int
    trials: Mapping[int, str]
    tracked: Mapping[str, TrackedRun]
    pages: Mapping[str, str]
    parent: str | None
    confirmed: Sequence[Confirmation]
    verdicts: Sequence[Verdict]
    restated: float | None
    importances: Mapping[str, float] | str
    pruned: Sequence[PrunedRun]
    answer: Answer
    images: int | None

    @property
    def metric(self) -> str:
        """The metric that the study optimises; the first one, if there are several."""
        return self.study.search.metric

    @property
    def metrics(self) -> list[str]:
        """The metrics whose differences are tested."""
        return list(dict.fromkeys([*self.study.search.objectives, BIAS]))

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The rows of the status that belong to these arms."""
        return [row for row in self.status.trials if row["number"] in self.trials]

    @property
    def to_do(self) -> int:
        """Number of runs that have not ended."""
        return self.status.total - self.status.complete - self.status.pruned - self.status.failed

    @property
    def complete(self) -> list[ArmReport]:
        """The arms with a complete run."""
        return [arm for arm in self.arms if arm.arm.runs]

    @property
    def complete_runs(self) -> list[TrackedRun]:
        """The complete runs of the search."""
        return [run for arm in self.arms for run in arm.arm.runs]

    @property
    def counted_runs(self) -> list[TrackedRun]:
        """The runs whose numbers are on the page: complete runs of the search and of confirmations."""
        return [*self.complete_runs, *fresh_runs(self.confirmed)]

    @property
    def highlighted(self) -> list[ArmReport]:
        """The arms with a colour of their own in figures."""
        return [arm for arm in self.arms if arm.style is not None]

    @property
    def best(self) -> list[str]:
        """The names of the arms of the best trial, or of those of the Pareto front."""
        numbers = [one.trial.number for one in self.answer.best] if self.study.space else []
        return [self.trials[number] for number in numbers if number in self.trials]

    @property
    def names_note(self) -> str:
        """One line that says what the names of the arms mean."""
        return arm_names_note([arm.name for arm in self.arms], [arm.arm.trials for arm in self.arms])

    def differences(self, metric: str) -> list[Difference]:
        """The differences between all pairs of arms that have the metric; of many arms, between the best and each."""
        omitted = self.total_arms - len(self.arms)
        return differences(self.arms, metric, lambda arm: quality(arm, self.study), omitted)
