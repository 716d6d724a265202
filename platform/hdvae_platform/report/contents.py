"""What a report is about, read from MLflow, the study database and the study's storage."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae_platform.analysis import comparison
from hdvae_platform.analysis.arms import labels
from hdvae_platform.analysis.comparison import Arm, Interval
from hdvae_platform.analysis.differences import ARMS, over_seeds
from hdvae_platform.analysis.inference import holm
from hdvae_platform.analysis.verdicts import Verdict, verdicts
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.search.importance import MIN_IMPORTANCE_TRIALS, importances
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.layout import run_folder, samples_file
from hdvae_platform.store.per_image import find_per_image, read_per_image
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.space import set_key
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.study_run import confirmation_runs, study_run

BIAS = "valid/relaxation_bias"
ELBO = "valid/elbo"
ALPHA = 0.05
"""A difference counts as beyond chance where Holm's adjusted p-value is below it."""
SHOWN = 7
"""Arms that are told apart in figures: as many as there are colours."""
MOST = 500
"""Arms that a report holds: of more, the best."""

Curve = Mapping[int, Mapping[str, float]]
"""Step → metrics of the report at that step, with the prefixes of their splits."""


@dataclass
class ArmReport:
    """An arm, and what its figures need.

    Attributes:
        number: from 1; by which the page and its figures call the arm.
        label: the arm in words, unlike those of all other arms.
        arm: its runs.
        experiment: its settings.
        shown: its place among the arms that figures tell apart; None for the others.
        curves: MLflow's id of a run → its curve; of shown arms only.
        samples: a seed, and a picture of what its run draws, PNG; of shown arms only.
    """

    number: int
    label: str
    arm: Arm
    experiment: Experiment
    shown: int | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: tuple[int, bytes] | None = None

    def interval(self, metric: str) -> Interval | None:
        """Mean over the seeds that have the metric, with its 95% interval; None without one.

        The seed is the independent unit: several runs of one add nothing to it.
        """
        by_seed = self.arm.by_seed(metric)
        return comparison.interval(list(by_seed.values())) if by_seed else None

    def values(self, metric: str) -> list[float]:
        """The finite values of the metric, one of each run."""
        return self.arm.values(metric)

    def standard_error(self, metric: str) -> float | None:
        """Of the bias named `metric`, over images: the root mean square over runs."""
        errors = self.values(metric.replace("relaxation_bias", "relaxation_bias_se"))
        return math.sqrt(statistics.fmean(error**2 for error in errors)) if errors else None


@dataclass(frozen=True)
class Difference:
    """Between two arms, in one metric: first − second.

    Attributes:
        first: number of an arm.
        second: of another.
        interval: of the mean difference over seeds.
        paired: whether it is over the seeds that both arms have.
        seeds: how many pairs, or seeds of both arms.
        adjusted: Holm's p-value over all pairs of arms that have the metric, also of those that are not shown since the
            best arm was chosen by looking at them; None if it could not be tested.
    """

    first: int
    second: int
    interval: Interval
    paired: bool
    seeds: int
    adjusted: float | None

    @property
    def beyond_chance(self) -> bool:
        """Whether it stands after Holm's correction."""
        return self.adjusted is not None and self.adjusted < ALPHA

    @property
    def upward(self) -> tuple[int, int, float, float, float]:
        """The arm with the larger mean, the other one, and by how much with its limits; of a tested difference."""
        value = self.interval
        assert value.low is not None
        assert value.high is not None
        if value.mean >= 0:
            return self.first, self.second, value.mean, value.low, value.high
        return self.second, self.first, -value.mean, -value.high, -value.low


@dataclass(frozen=True)
class Contents:
    """All that a report says.

    Attributes:
        study: as it is recorded.
        places: where it is.
        status: how far it is, as `hdvae study status` says it.
        arms: in the order of the trials; the best, if there are more than `MOST`.
        arms_in_all: how many have begun.
        not_begun: how many parameter sets are known besides, of which no run was started.
        sent: how many complete runs MLflow has, of the search and of confirmations.
        unsent: how many more the study database has: their numbers are not in the means.
        trials: number of each trial → number of its arm.
        tracked: the complete runs of the arms, and the confirmed ones, by MLflow's id.
        pages: MLflow's page of each run that has one, by its id.
        parent: MLflow's id of the run above them; None if there is none.
        confirmed: winners of the search on fresh seeds.
        verdicts: what the data say of each expectation of the study file.
        restated: when what is expected was last changed after the study was begun, seconds since 1970; None if never.
        importances: share of each setting in what makes a good trial; why there is none, if there is none.
        images: on how many of the validation split was measured; None if the storage does not tell.
    """

    study: Study
    places: Places
    status: StudyStatus
    arms: Sequence[ArmReport]
    arms_in_all: int
    not_begun: int
    sent: int
    unsent: int
    trials: Mapping[int, int]
    tracked: Mapping[str, TrackedRun]
    pages: Mapping[str, str]
    parent: str | None
    confirmed: Sequence[comparison.Confirmation]
    verdicts: Sequence[Verdict]
    restated: float | None
    importances: Mapping[str, float] | str
    images: int | None

    @property
    def metric(self) -> str:
        """The metric that the study was for."""
        return self.study.search.metric

    @property
    def metrics(self) -> list[str]:
        """The metrics in which differences are tested."""
        return list(dict.fromkeys([*self.study.search.objectives, BIAS]))

    @property
    def runs(self) -> list[Mapping[str, Any]]:
        """The rows of the status that are of these arms."""
        return [row for row in self.status.trials if row["number"] in self.trials]

    @property
    def to_do(self) -> int:
        """How many runs have not ended."""
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
        """All runs of which there is a number on the page: of the search, and of the confirmations."""
        return [*self.complete_runs, *(run for one in self.confirmed for run in one.runs)]

    @property
    def shown(self) -> list[ArmReport]:
        """The arms that figures tell apart."""
        return [arm for arm in self.arms if arm.shown is not None]

    def differences(self, metric: str) -> list[Difference]:
        """Between all pairs of arms that have the metric; of many arms, between the best and each other."""
        besides = self.arms_in_all - len(self.arms)
        return differences(self.arms, metric, lambda arm: worth(arm, self.study), besides)


def worth(arm: ArmReport, study: Study) -> float:
    """The mean of the study's metric, turned so that larger is better; −∞ without one."""
    found = arm.interval(study.search.metric)
    sign = 1 if study.search.direction == "maximize" else -1
    return -math.inf if found is None else sign * found.mean


def having(arms: Sequence[ArmReport], metric: str) -> list[ArmReport]:
    """The arms that have a metric."""
    return [arm for arm in arms if arm.values(metric)]


def differences(
    arms: Sequence[ArmReport], metric: str, worth: Callable[[ArmReport], float], besides: int = 0
) -> list[Difference]:
    """Differences between arms that have a metric, with Holm's correction over all their pairs.

    Where the arms are too many for all pairs each is compared with the best of them. That one is found by looking at
    the data, so all pairs count in the correction all the same: with the shown ones alone, of a hundred equal arms one
    in four studies would have a "difference".

    Args:
        arms: any number.
        metric: in which.
        worth: larger of better arms.
        besides: how many arms there are that are none of these, for being worse.
    """
    compared = having(arms, metric)
    pairs = list(itertools.combinations(compared, 2))
    hypotheses = math.comb(len(compared) + besides, 2)
    if len(compared) > ARMS:
        best = max(compared, key=worth)
        pairs = [(best, arm) for arm in compared if arm is not best]
    tested = [(a, b, found) for a, b in pairs if (found := over_seeds(a.arm, b.arm, metric)) is not None]
    adjusted = holm([found.p for *_, found in tested], hypotheses)
    return [
        Difference(a.number, b.number, found.value, found.paired, found.seeds, p)
        for (a, b, found), p in zip(tested, adjusted, strict=True)
    ]


def read_contents(places: Places, name: str) -> Contents:
    """Read all that the report of a study says.

    Raises:
        InputError: the study is unknown, MLflow does not answer, or no run is complete.
    """
    records = Records(places.database)
    record = records.known_study(name)
    study = record.as_study()
    client = Client(places)
    found = comparison.arms(client, [name])
    told = labels([arm.arm for arm in found])
    arms = best_arms(
        [
            ArmReport(number, label, arm, study.experiment_at(arm.arm))
            for number, (label, arm) in enumerate(zip(told, found, strict=True), 1)
        ],
        study,
    )
    storage = Storage(places.storage)
    _read_storage(arms, client, storage, name)
    status = study_status(places, record)
    tracked = {run.run_id: run for arm in arms for run in arm.arm.runs}
    again = confirmation_runs(client, name)
    confirming = {run.run_id: run for run in again if run.state == RunState.COMPLETE}
    tracked |= confirming
    sent = {run.run_id for arm in found for run in arm.runs} | confirming.keys()
    parent = study_run(client, name)
    trials = _trials(status, arms)
    begun = [row["run_id"] for row in status.trials if row["number"] in trials and row["run_id"]]
    ids = [*tracked, *begun, *([parent.run_id] if parent else [])]
    return Contents(
        study=study,
        places=places,
        status=status,
        arms=arms,
        arms_in_all=len(found),
        not_begun=len(_waiting(status) - {set_key(arm.arm) for arm in found}),
        sent=len(sent),
        unsent=sum(row["state"] == RunState.COMPLETE and row["run_id"] not in sent for row in status.trials),
        trials=trials,
        tracked=tracked,
        pages={run_id: client.page(run_id) for run_id in ids},
        parent=parent.run_id if parent else None,
        confirmed=comparison.confirmations(client, [name]),
        verdicts=verdicts(study.expect, found),
        restated=_restated(records, name),
        importances=_importances(study, places),
        images=_images(arms, storage, name),
    )


def best_arms(arms: Sequence[ArmReport], study: Study) -> list[ArmReport]:
    """The best arms in their order, and among them those that figures tell apart."""
    best = sorted(arms, key=lambda arm: worth(arm, study), reverse=True)[:MOST]
    shown = [arm for arm in best if arm.arm.runs][:SHOWN]
    for place, arm in enumerate(sorted(shown, key=lambda arm: arm.number)):
        arm.shown = place
    return sorted(best, key=lambda arm: arm.number)


def _trials(status: StudyStatus, arms: Sequence[ArmReport]) -> dict[int, int]:
    """The trials of these arms; equal parameter sets are one arm."""
    numbers = {set_key(arm.arm.arm): arm.number for arm in arms}
    keys = {row["number"]: set_key(row["params"]) for row in status.trials}
    return {trial: numbers[key] for trial, key in keys.items() if key in numbers}


def _waiting(status: StudyStatus) -> set[str]:
    """The parameter sets of which no run was started."""
    begun = {set_key(row["params"]) for row in status.trials if row["state"] != RunState.WAITING or row["attempts"]}
    return {set_key(row["params"]) for row in status.trials} - begun


def _read_storage(arms: Sequence[ArmReport], client: Client, storage: Storage, name: str) -> None:
    """Curves and pictures of the arms that are shown; curves from MLflow where the storage has none."""
    for arm in arms:
        if arm.shown is None:
            continue
        for run, seed in zip(arm.arm.runs, arm.arm.seeds, strict=True):
            folder = run_folder(name, run.trial, seed)
            journal = Journal(storage, folder)
            steps = journal.steps()
            arm.curves[run.run_id] = (
                {step: journal.entry(step).metrics for step in steps} if steps else _history(client, run.run_id)
            )
            if arm.samples is None and storage.exists(samples_file(folder)):
                arm.samples = seed, storage.read(samples_file(folder))


def _images(arms: Sequence[ArmReport], storage: Storage, name: str) -> int | None:
    """How many images there are values of, from the first run that keeps them."""
    for arm in arms:
        for run, seed in zip(arm.arm.runs, arm.arm.seeds, strict=True):
            folder = run_folder(name, run.trial, seed)
            if find_per_image(storage, folder, "valid") is not None:
                return int(read_per_image(storage, folder, "valid")[0].num_rows)
    return None


def _history(client: Client, run_id: str) -> Curve:
    curve: dict[int, dict[str, float]] = {}
    for metric, step, value in client.history(run_id):
        curve.setdefault(step, {})[metric] = value
    return dict(sorted(curve.items()))


def _restated(records: Records, name: str) -> float | None:
    """When what a study expects was last changed from one launch to the next."""
    plans = [change for change in records.changes(name) if change.what == "plan"]
    return max((one.time for one in plans if one.before.get("expect") != one.after.get("expect")), default=None)


def _importances(study: Study, places: Places) -> Mapping[str, float] | str:
    if len(study.space) < 2:
        return "fewer than two settings were varied"
    found = importances(study, places.database)
    if found is None:
        return f"it needs {MIN_IMPORTANCE_TRIALS} complete trials or more, and fewer say nothing reliable"
    return found
