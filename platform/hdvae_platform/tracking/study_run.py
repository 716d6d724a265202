"""A study in MLflow: its own run, which is the parent of the others, and its runs of search and confirmation."""

from __future__ import annotations

import json
from collections.abc import Iterator

from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import Limits
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import Param, RunKind, Tag


class StudyRun(TrackedRun):
    """The run of a study as a whole."""

    @property
    def metric(self) -> str:
        """The metric that the search optimises."""
        return self.params[Param.METRIC]

    @property
    def maximises(self) -> bool:
        """Whether the search looks for the largest value of its metric."""
        return self.params[Param.DIRECTION] == "maximize"

    @property
    def objectives(self) -> dict[str, bool]:
        """Every metric that the search optimises, and whether it looks for its largest value; `metric` first."""
        also = dict(json.loads(self.params.get(Param.ALSO, "[]")))
        return {self.metric: self.maximises, **{metric: way == "maximize" for metric, way in also.items()}}

    @property
    def constraints(self) -> dict[str, Limits]:
        """The constraints of the search."""
        limits: dict[str, dict[str, float]] = {}
        for name, value in self.params.items():
            if name.startswith(Param.CONSTRAINTS):
                metric, _, limit = name.removeprefix(Param.CONSTRAINTS).rpartition(".")
                limits.setdefault(metric, {})[limit] = float(value)
        return {metric: Limits(**kept) for metric, kept in limits.items()}

    @property
    def summarised(self) -> str | None:
        """What its description and the registered model were made of; None before they are made."""
        return self.tags.get(Tag.SUMMARISED)

    @property
    def reported(self) -> str | None:
        """What the report among its artifacts was made of; None if there is no report."""
        return self.tags.get(Tag.REPORTED)


def study_identity(study: str) -> dict[str, str]:
    """The tags by which the run of a study is found."""
    return {Tag.STUDY: study, Tag.KIND: RunKind.STUDY}


def run_identity(study: str, kind: RunKind, trial: int, seed: int) -> dict[str, str]:
    """The tags by which one run of a study is found."""
    return {Tag.STUDY: study, Tag.KIND: kind, Tag.TRIAL: str(trial), Tag.SEED: str(seed)}


def study_run(client: Client, study: str) -> StudyRun | None:
    """The run of a study as a whole; None if MLflow has none."""
    found = next(client.find(study_identity(study)), None)
    return None if found is None else StudyRun(**vars(found))


def search_runs(client: Client, study: str) -> Iterator[TrackedRun]:
    """The runs of a study's search, the oldest first."""
    return client.find({Tag.STUDY: study, Tag.KIND: RunKind.SEARCH})


def confirmation_runs(client: Client, study: str) -> Iterator[TrackedRun]:
    """The runs that confirm the best trials of a study, the oldest first."""
    return client.find({Tag.STUDY: study, Tag.KIND: RunKind.CONFIRMATION})


def complete_runs(client: Client, study: str) -> Iterator[TrackedRun]:
    """The complete runs of a study, of its search and of its confirmation."""
    return client.find({Tag.STUDY: study, Tag.STATE: RunState.COMPLETE})


def study_names(client: Client) -> list[str]:
    """The names of all studies that MLflow has."""
    return [run.study for run in client.find({Tag.KIND: RunKind.STUDY})]


def delete_runs(client: Client, study: str) -> int:
    """Delete all runs of a study, its own too; returns their number.

    Raises:
        Unreachable: MLflow does not answer.
    """
    return client.delete({Tag.STUDY: study})
