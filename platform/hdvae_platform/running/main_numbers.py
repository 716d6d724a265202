"""The main numbers of a study, which its own run in MLflow carries, so that studies can be sorted by them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from hdvae_platform.analysis.metric_names import BIAS, ELBO, KL
from hdvae_platform.running.descriptions import best_run
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import StudyMetric


def main_metrics(study: Study) -> list[str]:
    """The metrics that matter in a study: those of its search, then ELBO, bias and KL."""
    return list(dict.fromkeys([*study.search.objectives, ELBO, BIAS, KL]))


def main_numbers(client: Client, study: Study, runs: Sequence[Run]) -> dict[str, float]:
    """How many runs ended how, and the means of the best trial over its seeds.

    They are those of its confirmation, if there is one; every metric that MLflow has of all its runs is there.
    """
    states = {
        StudyMetric.COMPLETE: RunState.COMPLETE,
        StudyMetric.PRUNED: RunState.PRUNED,
        StudyMetric.FAILED: RunState.FAIL,
    }
    numbers = {name: float(sum(run.state == state for run in runs)) for name, state in states.items()}
    best = best_run(study, runs)
    if best is None:
        return numbers
    same = [run.run_id for run in runs if (run.trial, run.kind) == (best.trial, best.kind)]
    found = [tracked.metrics for run_id in same if run_id is not None and (tracked := client.get(run_id)) is not None]
    numbers[StudyMetric.BEST_TRIAL] = float(best.trial)
    for metric in main_metrics(study):
        if len(found) == len(same) and all(metric in metrics for metrics in found):
            numbers[metric] = statistics.fmean(metrics[metric] for metrics in found)
    return numbers
