"""The rules of a search, as pure functions: which seeds of a trial are run, how it ends, what is confirmed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from hdvae_platform.search.trials import Trial
from hdvae_platform.store.feasibility import means
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.pareto import is_dominated
from hdvae_platform.study.study import Study


def seeds_to_run(study: Study, first: Run | None) -> Sequence[int]:
    """The seeds with which a trial may be run now.

    Without a pruner these are all seeds. With a pruner the others wait until the run of the first seed is complete.

    Args:
        study: the study.
        first: the trial's run of the first seed; None if there is none yet.
    """
    if study.search.pruner is None or (first is not None and first.state == RunState.COMPLETE):
        return study.seeds
    return study.seeds[:1]


def is_prunable(study: Study, run: Run, value: float | None) -> bool:
    """Whether the pruner judges a run by this value: only if the run is that of the first seed and still running."""
    return (
        study.search.pruner is not None
        and run.seed == study.seeds[0]
        and run.state == RunState.RUNNING
        and value is not None
        and math.isfinite(value)
    )


def trainings_saved(study: Study, trials: Iterable[Trial]) -> float:
    """How many full trainings pruning has saved: the rest of the pruned runs, and the other seeds of their trials."""
    return sum(
        len(study.seeds) - (trial.last_step or 0) / study.experiment_at(trial.params).training.steps
        for trial in trials
        if trial.state == RunState.PRUNED
    )


def not_finite(values: Mapping[str, float]) -> str:
    """Which metrics are not finite, in words; empty if all are.

    >>> not_finite({"valid/elbo": float("nan"), "valid/kl": 3.0})
    'valid/elbo is nan'
    """
    return ", ".join(f"{metric} is {value}" for metric, value in values.items() if not math.isfinite(value))


def trial_outcome(study: Study, runs: Sequence[Run]) -> tuple[RunState, list[float] | None]:
    """The state of a trial all of whose runs have ended, and its values.

    Args:
        study: the study.
        runs: the trial's runs in the search, at least one.

    Returns:
        FAIL if a run failed, else PRUNED if one was, else COMPLETE; for a complete trial the mean over its runs of each
        metric of the search, else None.
    """
    states = {run.state for run in runs}
    for state in (RunState.FAIL, RunState.PRUNED):
        if state in states:
            return state, None
    mean = means(study, runs)
    return RunState.COMPLETE, [mean[metric] for metric in study.search.objectives]


def confirmations(study: Study, trials: Sequence[Trial]) -> list[tuple[int, int]]:
    """The trials and seeds that confirm a search: its best feasible trials by their means over seeds, the best first.

    With several metrics the trials on the Pareto front come first; within each group the study's first metric decides.
    """
    if study.confirm is None:
        return []
    complete = [trial for trial in trials if trial.values is not None and trial.is_feasible]
    signs = [1 if direction == "maximize" else -1 for direction in study.search.objectives.values()]
    scores_TM = [[sign * value for sign, value in zip(signs, trial.values or (), strict=True)] for trial in complete]
    ranked = sorted(
        (is_dominated(score_M, scores_TM), -score_M[0], trial.number)
        for score_M, trial in zip(scores_TM, complete, strict=True)
    )
    return [(number, seed) for *_, number in ranked[: study.confirm.top] for seed in study.confirmation_seeds()]
