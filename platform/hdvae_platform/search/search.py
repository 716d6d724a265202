"""Which run comes next, and what the study database is told of its end. Optuna is imported here alone.

An Optuna trial is one parameter set; it is trained once for each seed and told the mean. Unfinished runs are
issued before new ones, so a study that was cut off goes on where it stands. No set is trained twice: all randomness
is by seed, so the same numbers would come. With a pruner the run of the first seed
is judged at each of its reports: where it is stopped its trial is, and the other seeds are not started.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from hdvae.randomness.seeds import derive
from hdvae_platform.search.run_table import RunTable
from hdvae_platform.store.database import makes_tables
from hdvae_platform.store.records import Kind, Records, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.space import Dimension, Params, set_key
from hdvae_platform.study.study import Study

ATTEMPTS = 3
"""How often a run's process may die between two of its reports until that counts as the run's failure."""
DATABASE_FAULTS = (SQLAlchemyError, optuna.exceptions.StorageInternalError)
"""What is raised where the study database is away."""
MIN_IMPORTANCE_TRIALS = 10
"""Complete trials below which no importance is told: half of so few are the five that make PED-ANOVA stable."""
POPULATION = 20
"""Trials of a generation of NSGA-II; Optuna's 50 are as many as whole studies have here."""
DRAWS = 10
"""How often the sampler is asked for a set that was not tried; then the first such set of the space is taken."""
_DROPPED = "hdvae: cut off while its parameters were suggested"
"""User attribute of a trial that is not one of the study's."""
_REPEATS = "hdvae: repeats trial"
"""User attribute of another such: the sampler suggested what an earlier trial had tried."""
_INSTEAD_OF = "hdvae: instead of trial"
"""User attribute of the trial by which Optuna is told the value of one that had failed, and was run again.

A trial that Optuna was told is finished for ever, so the failed one stands, and the samplers learn from the other.
Everywhere else the trial keeps its number: in the tables of runs, on the storage, in MLflow.
"""

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass(frozen=True)
class Assignment:
    """One run to do: a trial with one seed.

    Attributes:
        trial: Optuna's trial number.
        seed: the seed.
        params: dotted paths into the experiment → values.
        attempt: 1 for the first time; never the same again, since only the newest launch may count it up.
        kind: part of the search, or a winner of it on a fresh seed.
    """

    trial: int
    seed: int
    params: dict[str, Any]
    attempt: int
    kind: Kind = "search"


class Search:
    """Issues the runs of a study and tells Optuna how they ended.

    Args:
        study: a checked study, recorded by `Records.define`.
        url: SQLAlchemy URL of the study database.
        records: the tables of runs in the same database.
        retry_failed: whether the runs that failed are issued again, from their checkpoints.
    """

    def __init__(self, study: Study, url: str, records: Records, *, retry_failed: bool = False) -> None:
        self._study, self._records = study, records
        known = records.study(study.name)
        assert known is not None
        self._begun = known.created
        self._storage = optuna_storage(url)
        self._optuna = optuna.create_study(
            study_name=study.name,
            storage=self._storage,
            directions=list(study.search.objectives.values()),
            pruner=_pruner(study),
            load_if_exists=True,
        )
        if self._optuna.metric_names is None:
            self._optuna.set_metric_names(list(study.search.objectives))  # which Optuna's page calls objective 0, 1, …
        self._id = self._storage.get_study_id_from_name(study.name)
        # What is said to run was left so by an earlier launch.
        left = [_waiting(run) for run in records.runs(study.name)]
        self._runs = RunTable(study.seeds, study.search.pruner is not None, left)
        self._drop_half_suggested()
        trials = self._optuna.get_trials(deepcopy=False)
        self._optuna.sampler = _sampler(study, len(trials))
        if study.search.method == "grid":
            self._enqueue_grid(trials)
            trials = self._optuna.get_trials(deepcopy=False)
        self._deaths: Counter[tuple[int, int]] = Counter()
        self._pending: deque[tuple[int, int]] = deque()
        if retry_failed:
            self._forget_failures()
        trials = [trial for trial in trials if _is_own(trial)]
        self._params = {trial.number: self._decode(_written(trial)) for trial in trials}
        started = [trial.number for trial in trials if trial.state != TrialState.WAITING]
        self._started = len(started)
        self._tried = {set_key(self._params[number]): number for number in started}
        for trial in trials:
            self._take_up(trial)
        confirming = [run for run in self.runs() if run.kind == "confirmation" and run.unfinished]
        self._pending.extend((run.trial, run.seed) for run in sorted(confirming, key=lambda run: run.attempts == 0))

    def next(self) -> Assignment | None:
        """The next run, marked as running; None if there is nothing left to issue."""
        if not self._pending:
            if self._searched():
                self._open_confirmations()
            else:
                self._open_trial()
        if not self._pending:
            return None
        number, seed = self._pending.popleft()
        run = self._runs[number, seed]
        self._set(run, state=RunState.RUNNING, attempts=run.attempts + 1)
        return self.assignment(self._runs[number, seed])

    def _open_trial(self) -> None:
        """Ask for a parameter set that was not tried, and queue its runs."""
        self.check()
        trial, params = self._ask()
        self._started += 1
        self._params[trial.number] = params
        self._tried[set_key(params)] = trial.number
        self._open(trial.number)

    def _ask(self) -> tuple[optuna.Trial, dict[str, Any]]:
        """A trial whose set is unlike all before; there is one as long as the search is not over."""
        for _ in range(DRAWS):
            trial = self._optuna.ask()
            params = self._decode(self._suggest(trial))
            earlier = self._tried.get(set_key(params))
            if earlier is None:
                return trial, params
            self._drop(trial, _REPEATS, earlier)
        random = np.random.default_rng(derive(self._study.seeds[0], "untried", self._started))
        untried = (params for params in self._study.sets(random) if set_key(params) not in self._tried)
        self._enqueue(next(untried))
        return self._ask()

    def _drop(self, trial: optuna.Trial, attribute: str, value: Any) -> None:
        """End a trial that is not to be one of the study's."""
        trial.set_user_attr(attribute, value)
        self._optuna.tell(trial.number, state=TrialState.FAIL)

    def _enqueue(self, params: Params) -> None:
        """The next trial that Optuna is asked for, of those not queued before, has these parameters."""
        self._optuna.enqueue_trial({path: _encode(value) for path, value in params.items()})

    def _searched(self) -> bool:
        """Whether no further parameter set is begun."""
        target = self._study.parameter_sets()
        return self._study.hours_are_over(self._begun, time.time()) or (target is not None and self._started >= target)

    def _open_confirmations(self) -> None:
        for trial, seed in self._confirmations_to_open():
            self._add(trial, seed, "confirmation")
            self._pending.append((trial, seed))

    def _confirmations_to_open(self) -> list[tuple[int, int]]:
        """Once nothing of the search is left to do."""
        if self._runs.searching:
            return []
        wanted = confirmations(self._study, _trials(self._study, self._optuna))
        return [key for key in wanted if key not in self._runs]

    def assignment(self, run: Run) -> Assignment:
        """What a known run was issued as."""
        return Assignment(run.trial, run.seed, self._params[run.trial], run.attempts, run.kind)

    def has_work(self) -> bool:
        """Whether `next` would return a run."""
        return bool(self._pending) or not self._searched() or bool(self._confirmations_to_open())

    def is_done(self) -> bool:
        """Whether every run has ended, and none is to come."""
        return not (self.has_work() or any(run.unfinished for run in self.runs()))

    def report(self, trial: int, seed: int, step: int, value: float | None) -> bool:
        """A run got so far; whether it is pruned, as its trial then is.

        The pruner judges the run of the first seed, and once only: not at the last step, when the work is done, nor
        when it is run again in a trial that Optuna knows to have ended.
        """
        run = self._runs[trial, seed]
        judged = (
            self._study.search.pruner is not None and seed == self._study.seeds[0] and run.state == RunState.RUNNING
        )
        if not judged or value is None or not math.isfinite(value):
            return False
        frozen = self._told(trial)
        if frozen.state != TrialState.RUNNING or step in frozen.intermediate_values:
            return False
        asked = optuna.Trial(self._optuna, frozen._trial_id)
        asked.report(value, step)
        if step >= self._study.experiment_at(self._params[trial]).training.steps or not asked.should_prune():
            return False
        self._set(run, state=RunState.PRUNED, value=value, error=None)
        self._ended(run)
        return True

    def finish(self, trial: int, seed: int, *values: float) -> Run:
        """A run reached its last step; returns it as it stands.

        Args:
            trial: its trial.
            seed: its seed.
            values: of the metrics that are searched for, in their order. One that is not finite is a failure.
        """
        found = dict(zip(self._study.search.objectives, values, strict=True))
        broken = [f"{metric} is {value}" for metric, value in found.items() if not math.isfinite(value)]
        if broken:
            self._set(self._runs[trial, seed], state=RunState.FAIL, error=", ".join(broken))
        else:
            value = found.pop(self._study.search.metric)
            self._set(self._runs[trial, seed], state=RunState.COMPLETE, value=value, also=found, error=None)
        self._ended(self._runs[trial, seed])
        return self._runs[trial, seed]

    def fail(self, trial: int, seed: int, error: str) -> None:
        """A run failed."""
        self._set(self._runs[trial, seed], state=RunState.FAIL, error=error)
        self._ended(self._runs[trial, seed])

    def interrupt(self, trial: int, seed: int) -> Run:
        """A run was cut off: if it had not ended, it waits to be continued. Returns it as it stands."""
        if self._runs[trial, seed].state == RunState.RUNNING:
            self._set(self._runs[trial, seed], state=RunState.WAITING)
        return self._runs[trial, seed]

    def retry(self, trial: int, seed: int) -> bool:
        """A run's process died: issue it again, unless that happened too often. Whether it will be."""
        self._deaths[trial, seed] += 1
        if self._deaths[trial, seed] >= ATTEMPTS:
            return False
        self.reissue(trial, seed)
        return True

    def note(self, trial: int, seed: int, error: str) -> None:
        """Something went wrong with a run that goes on: known until it is complete."""
        self._set(self._runs[trial, seed], error=error)

    def reissue(self, trial: int, seed: int) -> None:
        """A run was cut off for reasons that are not its own: issue it again."""
        self.interrupt(trial, seed)
        self._pending.append((trial, seed))

    def progressed(self, trial: int, seed: int) -> None:
        """A run got further than ever: what killed its process before does not count any more."""
        del self._deaths[trial, seed]

    def check(self) -> None:
        """See that this driver still holds the study.

        Raises:
            Fenced: another has taken it.
        """
        self._records.check(self._study.name)

    def runs(self) -> list[Run]:
        """The runs as they stand."""
        return self._runs.all()

    def run(self, trial: int, seed: int) -> Run:
        """A run as it stands."""
        return self._runs[trial, seed]

    def total_runs(self) -> int:
        """How many runs there will be in all, as far as is known."""
        trials = max(0 if self._searched() else self._study.parameter_sets() or 0, self._started)
        searching = max(trials * len(self._study.seeds) - self._runs.spared, self._runs.count("search"))
        return searching + max(self._study.confirmations(trials), self._runs.count("confirmation"))

    def _drop_half_suggested(self) -> None:
        """A launch that was cut off between two suggestions left a trial with some of its parameters: not to be run.

        Runs are recorded once a trial has all its parameters, and a queued trial was born with them.
        """
        begun = {run.trial for run in self.runs()}
        for trial in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in begun and "fixed_params" not in trial.system_attrs:
                self._drop(optuna.Trial(self._optuna, trial._trial_id), _DROPPED, True)

    def _enqueue_grid(self, trials: Iterable[FrozenTrial]) -> None:
        known = {set_key(self._decode(_written(trial))) for trial in trials}
        for params in self._study.grid()[: self._study.parameter_sets()]:
            if set_key(params) not in known:
                self._enqueue(params)

    def _forget_failures(self) -> None:
        for run in self.runs():
            if run.state == RunState.FAIL:
                self._set(run, state=RunState.WAITING, error=None, tracked=False)

    def _take_up(self, trial: FrozenTrial) -> None:
        """Queue what an earlier launch left of a trial; tell Optuna what it could not."""
        if trial.state in (TrialState.RUNNING, TrialState.COMPLETE) or self._unfinished(trial.number):
            self._open(trial.number)
        if trial.state in (TrialState.RUNNING, TrialState.FAIL):
            self._tell_if_done(trial.number)

    def _unfinished(self, number: int) -> bool:
        return any(run.unfinished for run in self._runs.of(number))

    def _told(self, number: int) -> FrozenTrial:
        """What Optuna was told of a trial; a list of all trials takes longer the more there are."""
        return self._storage.get_trial(self._storage.get_trial_id_from_study_id_trial_number(self._id, number))

    def _ended(self, run: Run) -> None:
        """See what follows for the trial; nothing from a confirmation."""
        if run.kind == "search":
            if run.state == RunState.COMPLETE:
                self._open(run.trial)
            self._tell_if_done(run.trial)

    def _add(self, trial: int, seed: int, kind: Kind = "search") -> None:
        self._runs.put(self._records.add_run(self._study.name, trial, seed, kind))

    def _open(self, trial: int) -> None:
        """Make sure that the trial has its runs; queue those that wait."""
        for seed in self._seeds_of(trial):
            if (trial, seed) not in self._runs:
                self._add(trial, seed)
            if self._runs[trial, seed].state == RunState.WAITING and (trial, seed) not in self._pending:
                self._pending.append((trial, seed))

    def _seeds_of(self, trial: int) -> Sequence[int]:
        """With a pruner, the other seeds wait for what becomes of the first."""
        seeds = self._study.seeds
        first = (trial, seeds[0])
        free = self._study.search.pruner is None or (
            first in self._runs and self._runs[first].state == RunState.COMPLETE
        )
        return seeds if free else seeds[:1]

    def _tell_if_done(self, number: int) -> None:
        if self._unfinished(number):
            return
        runs = self._runs.of(number)
        ends = {run.state for run in runs}
        state = next((TrialState[end] for end in (RunState.FAIL, RunState.PRUNED) if end in ends), TrialState.COMPLETE)
        values = self._means(runs) if ends == {RunState.COMPLETE} else None
        told = self._told(number)
        if told.state != TrialState.FAIL:
            self._optuna.tell(number, values=values, state=state, skip_if_finished=True)
        elif values is not None and not self._is_mended(number):
            self._optuna.add_trial(_instead_of(told, values))

    def _means(self, runs: Sequence[Run]) -> list[float]:
        """What a trial is told, for every metric that is searched for: the mean over its complete runs."""
        leading = statistics.fmean(run.value for run in runs if run.value is not None)
        return [leading, *(statistics.fmean(run.also[metric] for run in runs) for metric in self._study.search.also)]

    def _is_mended(self, number: int) -> bool:
        """Whether another trial stands for one that failed."""
        trials = self._optuna.get_trials(deepcopy=False)
        return any(trial.user_attrs.get(_INSTEAD_OF) == number for trial in trials)

    def _set(self, run: Run, **values: Any) -> None:
        self._records.set_run(self._study.name, run.trial, run.seed, **values)
        self._runs.put(replace(run, **values))

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The sampler's values, dimension by dimension: conditions look at earlier ones."""
        written: dict[str, Any] = {}
        for path, dimension in self._study.space.items():
            if dimension.applies(self._decode(written)):
                written[path] = _suggest_one(trial, path, dimension)
        return written

    def _decode(self, written: dict[str, Any]) -> dict[str, Any]:
        return {path: _decode(value, self._study.space[path]) for path, value in written.items()}


@dataclass(frozen=True)
class Trial:
    """A parameter set that the study database knows.

    Attributes:
        number: Optuna's.
        state: Optuna's name for it; COMPLETE too if it failed, and did not when it was run again.
        params: dotted paths into the experiment → values.
        values: what Optuna was told once it was complete: the mean over its seeds of each metric that is searched for.
    """

    number: int
    state: RunState
    params: dict[str, Any]
    values: Sequence[float] | None

    @property
    def value(self) -> float | None:
        """That of the study's metric."""
        return None if self.values is None else self.values[0]


@makes_tables
def optuna_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's part of the study database; its tables are made where there are none."""
    return optuna.storages.get_storage(url)


def known_trials(study: Study, url: str) -> list[Trial]:
    """The trials of a study that were issued or wait; none if the study has not got so far."""
    try:
        known = optuna.load_study(study_name=study.name, storage=optuna_storage(url))
    except KeyError:
        return []
    return _trials(study, known)


def forget_study(url: str, name: str) -> None:
    """Delete the trials of a study; it is no error if there are none."""
    with contextlib.suppress(KeyError):
        optuna.delete_study(study_name=name, storage=optuna_storage(url))


def _trials(study: Study, known: optuna.Study) -> list[Trial]:
    trials = known.get_trials(deepcopy=False)
    mended = {trial.user_attrs[_INSTEAD_OF]: trial for trial in trials if _INSTEAD_OF in trial.user_attrs}
    return [
        Trial(
            trial.number,
            RunState(told.state.name),
            {path: _decode(value, study.space[path]) for path, value in _written(trial).items()},
            told.values if told.state == TrialState.COMPLETE else None,
        )
        for trial in trials
        if _is_own(trial)
        for told in [mended.get(trial.number, trial)]
    ]


def importances(study: Study, url: str) -> dict[str, float] | None:
    """The share of each varied setting in what tells a study's best trials from all; the largest first, 1 in all.

    Optuna's PED-ANOVA, which also knows settings that are varied under a condition only. Its best trials are a tenth of
    all, but five at least; of several metrics those nearest to the Pareto front, and farthest apart on it.

    Returns:
        Dotted path → share; None if fewer than `MIN_IMPORTANCE_TRIALS` trials are complete.
    """
    try:
        known = optuna.load_study(study_name=study.name, storage=optuna_storage(url))
    except KeyError:
        return None
    complete = len(known.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    if complete < MIN_IMPORTANCE_TRIALS:
        return None
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / complete))
    return dict(optuna.importance.get_param_importances(known, evaluator=evaluator))


def confirmations(study: Study, trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """The trials and seeds that confirm a search: its best trials by what they were told, the best first.

    Of a search for several metrics those on the Pareto front come before the others, each by the study's metric.
    """
    if study.confirm is None:
        return []
    told = [trial for trial in trials if trial.values is not None]
    signs = [1 if direction == "maximize" else -1 for direction in study.search.objectives.values()]
    worth = np.array([trial.values for trial in told], dtype=np.float64).reshape(len(told), len(signs)) * signs
    ranked = sorted((beaten(worth, own), -own[0], trial.number) for own, trial in zip(worth, told, strict=True))
    return [(number, seed) for *_, number in ranked[: study.confirm.top] for seed in study.confirmation_seeds()]


def beaten(worth: NDArray[np.float64], own: NDArray[np.float64]) -> bool:
    """Whether one of several trials is better in a metric than this one, and as good in all others.

    >>> front = np.array([[0.0, 2.0], [1.0, 1.0], [0.0, 1.0]])
    >>> [beaten(front, own) for own in front]
    [False, False, True]

    Args:
        worth: of the trials, (trials, metrics); larger is better.
        own: of this one, (metrics,).
    """
    return bool(((worth >= own).all(1) & (worth > own).any(1)).any())


def _is_own(trial: FrozenTrial) -> bool:
    """Whether a trial is a parameter set of the study, and not a leftover or a note for the samplers."""
    return trial.user_attrs.keys().isdisjoint((_DROPPED, _REPEATS, _INSTEAD_OF))


def _instead_of(failed: FrozenTrial, values: Sequence[float]) -> FrozenTrial:
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        values=values,
        params=failed.params,
        distributions=failed.distributions,
        intermediate_values=failed.intermediate_values,
        user_attrs={_INSTEAD_OF: failed.number},
    )


def _waiting(run: Run) -> Run:
    return replace(run, state=RunState.WAITING) if run.state == RunState.RUNNING else run


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    """Optuna's own, in steps: rungs of successive halving at the first evaluation and at 4, 16, … times its step."""
    if study.search.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=study.experiment.evaluation.every)
    return optuna.pruners.MedianPruner() if study.search.pruner == "median" else optuna.pruners.NopPruner()


def _sampler(study: Study, trials: int) -> optuna.samplers.BaseSampler:
    """Seeded with the number of trials too: a sampler made anew must not repeat its suggestions."""
    seed = derive(study.seeds[0], "search", trials) % 2**32
    if study.search.method == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    if study.search.method == "gp":
        return optuna.samplers.GPSampler(seed=seed, warn_independent_sampling=False)
    if study.search.method == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    return optuna.samplers.RandomSampler(seed=seed)


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return trial.suggest_categorical(path, [_encode(choice) for choice in dimension.choices])
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.is_integer:
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(path, float(dimension.low), float(dimension.high), log=dimension.log)


def _written(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters as Optuna keeps them; of a trial that waits, those it was queued with."""
    return dict(trial.system_attrs.get("fixed_params") or trial.params)


def _encode(choice: Any) -> Any:
    """Optuna's categories are plain values: lists and mappings are written as JSON."""
    return json.dumps(choice) if isinstance(choice, list | dict) else choice


def _decode(written: Any, dimension: Dimension) -> Any:
    for choice in dimension.choices or ():
        if _encode(choice) == written:
            return choice
    return written
