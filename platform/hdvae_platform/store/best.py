"""The best trials of a study: which they are, by the study database alone."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hdvae_platform.store.feasibility import feasible_trials
from hdvae_platform.store.records import Kind, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import in_words
from hdvae_platform.study.pareto import is_dominated
from hdvae_platform.study.study import Study

Measured = Mapping[str, Sequence[float]]
"""Metric → its value in each run."""


@dataclass(frozen=True)
class BestTrial:
    """A best trial, and what its complete runs measured.

    Attributes:
        number: of the trial.
        seed: the lowest seed of its complete runs.
        search: each metric that the search reads, by its complete runs of the search.
        fresh: the same by its complete confirmation runs; no metric without any.
    """

    number: int
    seed: int
    search: Measured
    fresh: Measured


def best_trials(study: Study, runs: Sequence[Run]) -> list[BestTrial]:
    """The best trial of a study; of a search for several metrics its Pareto front, the best in the first metric first.

    The best trial has the best mean over confirmation runs among the trials with complete ones, or, if there are none,
    the best mean over the complete runs of the search among all trials. The front is that of the search. A trial with a
    failed or pruned run of the search is never among them, nor is one that does not keep the constraints of the search
    (`store.feasibility`).

    Args:
        study: the study.
        runs: its runs.

    Returns:
        Empty if no trial is complete yet, or none is feasible: `why_none` says which.
    """
    feasible = feasible_trials(study, runs)
    search, fresh = (_measured(study, runs, kind) for kind in ("search", "confirmation"))
    deciding = search if study.search.also else fresh or search
    scores = {trial: _scores(study, measured) for trial, measured in deciding.items() if feasible[trial]}
    ranked = sorted(scores, key=lambda trial: (-scores[trial][0], trial))
    if study.search.also:
        front: dict[int, Sequence[float]] = {}
        for trial in sorted(ranked, key=scores.__getitem__, reverse=True):
            if not is_dominated(scores[trial], front.values()):  # whatever dominates it came before it
                front[trial] = scores[trial]
        best = [trial for trial in ranked if trial in front]
    else:
        best = ranked[:1]
    return [_described(trial, search, fresh, runs) for trial in best]


def complete_trial(study: Study, runs: Sequence[Run], number: int) -> BestTrial | None:
    """What a trial measured that could be the best; None if it has no complete run, or a failed or pruned one."""
    search, fresh = (_measured(study, runs, kind) for kind in ("search", "confirmation"))
    return _described(number, search, fresh, runs) if number in search else None


def _described(
    trial: int, search: Mapping[int, Measured], fresh: Mapping[int, Measured], runs: Sequence[Run]
) -> BestTrial:
    return BestTrial(trial, _lowest_seed(trial, runs), search.get(trial, {}), fresh.get(trial, {}))


def feasible_of_complete(study: Study, runs: Sequence[Run]) -> tuple[int, int]:
    """How many complete trials keep the constraints of the search, and how many are complete."""
    feasible, complete = feasible_trials(study, runs), _measured(study, runs, "search")
    return sum(feasible[trial] for trial in complete), len(complete)


def why_none(study: Study, runs: Sequence[Run]) -> str:
    """Why a study has no best trial, as the end of a sentence about it."""
    if not _measured(study, runs, "search"):
        return "has no complete trial yet"
    return f"has no feasible trial: none has {in_words(study.search.constraints)}"


def _measured(study: Study, runs: Sequence[Run], kind: Kind) -> dict[int, dict[str, list[float]]]:
    """What the complete runs of a kind measured, by trial; without the trials that cannot be the best."""
    out = {run.trial for run in runs if run.kind == "search" and run.state in (RunState.FAIL, RunState.PRUNED)}
    measured: dict[int, dict[str, list[float]]] = {}
    for run in runs:
        if run.kind == kind and run.state == RunState.COMPLETE and run.value is not None and run.trial not in out:
            values = {**run.also, study.search.metric: run.value}
            of_trial = measured.setdefault(run.trial, {metric: [] for metric in study.search.measured})
            for metric in of_trial.keys() & values.keys():
                of_trial[metric].append(values[metric])
    return measured


def _scores(study: Study, measured: Measured) -> list[float]:
    """The mean of each metric; larger is better."""
    signs = {metric: 1 if way == "maximize" else -1 for metric, way in study.search.objectives.items()}
    return [sign * statistics.fmean(measured[metric]) for metric, sign in signs.items()]


def _lowest_seed(trial: int, runs: Sequence[Run]) -> int:
    return min(run.seed for run in runs if run.trial == trial and run.state == RunState.COMPLETE)
