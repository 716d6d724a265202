"""A study in Optuna: new trials, their values, and pruning.

No parameter set is tried twice: all randomness comes from seeds, so a repetition would give the same numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hdvae.randomness.seeds import derive
from hdvae_platform.search.optuna_internals import find_trial, queued_params, running_trial
from hdvae_platform.search.trials import (
    Attribute,
    Trial,
    check_parameters,
    decoded,
    encoded,
    encoded_value,
    known_trials,
    optuna_storage,
    own_trials,
)
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.caveats import MEDIAN_NEEDS
from hdvae_platform.study.settled import settled
from hdvae_platform.study.space import Dimension, Params, set_key
from hdvae_platform.study.study import Study

DRAWS = 10
"""Suggestions of sets already tried after which the sampler is not asked again; the first untried set is taken then."""


def configure() -> None:
    """Keep Optuna from printing a line for each trial; the driver prints its own."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@contextmanager
def experimental_parts() -> Iterator[None]:
    """Use parts of Optuna that it calls experimental, without its warnings; they are tested here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        yield


class OptunaStudy:
    """The trials of a study in Optuna.

    Args:
        study: a checked study; defaults that it leaves open are filled in (`hdvae_platform.study.settled`).
        url: SQLAlchemy URL of the study database.
        begun: number → parameters of the trials of which runs are recorded.

    Raises:
        InputError: a trial is not there, or has other parameters than its runs.
    """

    def __init__(self, study: Study, url: str, begun: Mapping[int, Params | None]) -> None:
        configure()
        self._study, self._storage = study, optuna_storage(url)
        if begun:
            check_parameters(study, begun, known_trials(study, url))
        study = settled(study)
        with experimental_parts():
            self._optuna = optuna.create_study(
                study_name=study.name,
                storage=self._storage,
                directions=list(study.search.objectives.values()),
                pruner=_pruner(study),
                load_if_exists=True,
            )
            if self._optuna.metric_names is None:  # Optuna's page would call them objective 0, 1, …
                self._optuna.set_metric_names(list(study.search.objectives))
            self._drop_cut_off(begun)
            trials = self._optuna.get_trials(deepcopy=False)
            self._optuna.sampler = _sampler(study, len(trials))
        self._id = self._storage.get_study_id_from_name(study.name)
        self._is_queued = False
        found = self.trials()
        self._params = {trial.number: trial.params for trial in found}
        started = [trial for trial in found if trial.optuna_state != RunState.WAITING]
        self._tried = {set_key(trial.params): trial.number for trial in started}
        self.started = len(started)
        """The number of trials that have begun."""

    def trials(self) -> list[Trial]:
        """The study's trials."""
        return own_trials(self._study, self._optuna.get_trials(deepcopy=False))

    def params(self, number: int) -> dict[str, Any]:
        """The parameter set of a trial."""
        return self._params[number]

    def ask(self) -> int:
        """Begin a trial with an untried parameter set and return its number; there must be such a set."""
        trial, params = self._ask_for_untried()
        self.started += 1
        self._params[trial.number] = params
        self._tried[set_key(params)] = trial.number
        return trial.number

    def _ask_for_untried(self) -> tuple[optuna.Trial, dict[str, Any]]:
        for _ in range(DRAWS):
            trial = self._optuna.ask()
            params = decoded(self._study, self._suggest(trial))
            earlier = self._tried.get(set_key(params))
            if earlier is None:
                return trial, params
            self._drop(trial, Attribute.REPEATS, earlier)
        random = np.random.default_rng(derive(self._study.seeds[0], "untried", self.started))
        untried = (params for params in self._study.sets(random) if set_key(params) not in self._tried)
        self._enqueue(next(untried))
        return self._ask_for_untried()

    def _suggest(self, trial: optuna.Trial) -> dict[str, Any]:
        """The sampler's values, one dimension after another: whether one applies depends on earlier values."""
        written: dict[str, Any] = {}
        for path, dimension in self._study.space.items():
            if dimension.applies(decoded(self._study, written)):
                written[path] = _suggest_one(trial, path, dimension)
        return written

    def should_prune(self, number: int, step: int, value: float) -> bool:
        """Give the pruner a trial's value at a step; returns whether the trial is to be stopped.

        The answer is False without asking the pruner if it was asked for this step before, if the trial has already
        ended in Optuna (a failed trial that is run again), or at the last step.
        """
        frozen = self._find(number)
        if frozen.state != TrialState.RUNNING or step in frozen.intermediate_values:
            return False
        trial = running_trial(self._optuna, frozen)
        trial.report(value, step)
        return step < self._study.experiment_at(self._params[number]).training.steps and trial.should_prune()

    def tell(self, number: int, state: RunState, values: Sequence[float] | None, excesses: Mapping[str, float]) -> None:
        """Tell Optuna how a trial ended.

        Args:
            number: the trial's.
            state: COMPLETE, PRUNED or FAIL.
            values: of the metrics of the search, in order; of a complete trial only.
            excesses: by how much the trial is beyond each limit of the constraints; of a failed trial nothing.
        """
        known = self._find(number)
        if known.state == TrialState.RUNNING:
            trial = running_trial(self._optuna, known)
            for limit in excesses.keys() - known.constraints.keys():  # a launch before may have been killed here
                trial.set_constraint(limit, excesses[limit])
            if excesses:
                trial.set_user_attr(Attribute.FEASIBLE, _is_kept(excesses))
        if known.state != TrialState.FAIL:
            self._optuna.tell(number, values=values, state=TrialState[state], skip_if_finished=True)
        elif values is not None and not self._has_stand_in(number):
            self._optuna.add_trial(_stand_in(known, values, excesses))

    def _find(self, number: int) -> FrozenTrial:
        return find_trial(self._storage, self._id, number)

    def _has_stand_in(self, number: int) -> bool:
        trials = self._optuna.get_trials(deepcopy=False)
        return any(trial.user_attrs.get(Attribute.INSTEAD_OF) == number for trial in trials)

    def _drop_cut_off(self, begun: Collection[int]) -> None:
        """Drop the trial that has only some of its parameters, because its launch was killed while suggesting them.

        Runs are recorded once a trial has all its parameters, and a queued trial has them from the start.
        """
        for trial in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in begun and queued_params(trial) is None:
                self._drop(running_trial(self._optuna, trial), Attribute.CUT_OFF, True)

    def _drop(self, trial: optuna.Trial, attribute: str, value: Any) -> None:
        """End a trial in Optuna that does not belong to the study."""
        trial.set_user_attr(attribute, value)
        self._optuna.tell(trial.number, state=TrialState.FAIL)

    def enqueue_unknown(self) -> None:
        """Queue the sets of a grid, or those that a search starts with, unless an earlier launch has."""
        if self._is_queued:
            return
        known = {set_key(trial.params) for trial in self.trials()}
        is_grid = self._study.search.method.name == "grid"
        wanted = self._study.grid()[: self._study.parameter_sets()] if is_grid else self._study.start_sets()
        for params in wanted:
            if set_key(params) not in known:
                self._enqueue(params)
        self._is_queued = True

    def _enqueue(self, params: Params) -> None:
        """Queue a parameter set, so that Optuna suggests it after those queued before."""
        self._optuna.enqueue_trial(encoded(params))


def _is_kept(excesses: Mapping[str, float]) -> bool:
    return all(excess <= 0 for excess in excesses.values())


def _stand_in(failed: FrozenTrial, values: Sequence[float], excesses: Mapping[str, float]) -> FrozenTrial:
    """A trial that gives Optuna the values of a trial that it keeps as failed."""
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE,
        values=values,
        params=failed.params,
        distributions=failed.distributions,
        intermediate_values=failed.intermediate_values,
        user_attrs={
            Attribute.INSTEAD_OF: failed.number,
            **({Attribute.FEASIBLE: _is_kept(excesses)} if excesses else {}),
        },
        constraints=dict(excesses),
    )


def _pruner(study: Study) -> optuna.pruners.BasePruner:
    """Optuna's pruner of a settled study."""
    pruner = study.search.pruner
    if pruner is None or pruner.grace is None:
        return optuna.pruners.NopPruner()
    if pruner.asha is not None:
        return optuna.pruners.SuccessiveHalvingPruner(pruner.grace, pruner.asha.reduction)
    return optuna.pruners.MedianPruner(MEDIAN_NEEDS, n_warmup_steps=pruner.grace, n_min_trials=MEDIAN_NEEDS)


def _sampler(study: Study, trials: int) -> optuna.samplers.BaseSampler:
    """The sampler of a settled study.

    Its seed depends on the number of trials, so that a later launch does not repeat its suggestions.
    """
    seed, method = derive(study.seeds[0], "search", trials) % 2**32, study.search.method
    if method.tpe is not None:
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=method.start, multivariate=True, group=True, constant_liar=True
        )
    if method.gp is not None:
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=method.start, warn_independent_sampling=False)
    if method.nsga2 is not None:
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=method.start)
    return optuna.samplers.RandomSampler(seed=seed)


def _suggest_one(trial: optuna.Trial, path: str, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return trial.suggest_categorical(path, [encoded_value(choice) for choice in dimension.choices])
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.is_integer:
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(path, float(dimension.low), float(dimension.high), log=dimension.log)
