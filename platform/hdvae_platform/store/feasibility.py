"""Which trials of a study are feasible: they keep the constraints of its search."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from hdvae_platform.store.records import Kind, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import is_feasible
from hdvae_platform.study.study import Study

MEASURED = (RunState.COMPLETE, RunState.PRUNED)
"""States of runs that have values: of a pruned run these are those of its last report."""


def means(study: Study, runs: Iterable[Run]) -> dict[str, float]:
    """The mean of each metric that the search reads, over runs of one trial."""
    columns: dict[str, list[float]] = {}
    for run in runs:
        if run.state in MEASURED and run.value is not None:
            for metric, value in {**run.also, study.search.metric: run.value}.items():
                columns.setdefault(metric, []).append(value)
    return {metric: statistics.fmean(column) for metric, column in columns.items()}


def feasible_trials(study: Study, runs: Sequence[Run]) -> Mapping[int, bool]:
    """Whether each trial that has values keeps the constraints of the search.

    A trial is judged by its means over the seeds of the search. A confirmed one is judged by those over its fresh seeds
    instead, which its choice did not favour.

    Returns:
        Trial → whether it is feasible; all are without constraints.
    """
    by_kind: dict[Kind, dict[int, list[Run]]] = {"search": {}, "confirmation": {}}
    for run in runs:
        by_kind[run.kind].setdefault(run.trial, []).append(run)
    judged: dict[int, bool] = {}
    for of_trial in by_kind.values():
        values = {trial: means(study, own) for trial, own in of_trial.items()}
        judged |= {trial: is_feasible(study.search.constraints, own) for trial, own in values.items() if own}
    return judged
