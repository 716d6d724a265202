"""An arm: the runs of studies that share the varied settings and differ by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae_platform.analysis.labels import arm_names, distinct_labels, marked
from hdvae_platform.analysis.metric_names import parts_of
from hdvae_platform.analysis.run_settings import varied_in
from hdvae_platform.study.space import set_key
from hdvae_platform.tracking.client import TrackedRun


@dataclass
class Arm:
    """The runs that share the varied settings.

    Attributes:
        settings: dotted path → value.
        runs: complete runs, by trial and seed.
        pruned: how many runs were pruned.
        failed: how many runs failed.
        unfinished: how many runs have not ended.
        trials: (study, trial) of every run, complete or not; usually a single trial.
        feasible: whether its trial keeps the constraints of its search; None without constraints, before it has values,
            and where the arm pools trials.
    """

    settings: dict[str, Any]
    runs: list[TrackedRun] = field(default_factory=list)
    pruned: int = 0
    failed: int = 0
    unfinished: int = 0
    trials: set[tuple[str, int]] = field(default_factory=set)
    feasible: bool | None = None

    @property
    def seeds(self) -> list[int]:
        """The seeds of the complete runs."""
        return [run.seed for run in self.runs]

    @property
    def pools(self) -> dict[str, set[int]]:
        """The parameter sets that the arm pools: varied settings besides the arm's own, as JSON → their seeds."""
        pools: dict[str, set[int]] = {}
        for run in self.runs:
            others = {path: value for path, value in varied_in(run).items() if path not in self.settings}
            pools.setdefault(set_key(others), set()).add(run.seed)
        return pools

    def each(self, metric: str) -> list[float | None]:
        """The metric of each run, in the order of the seeds; None where it is missing or not finite."""
        values = [run.metrics.get(metric, math.nan) for run in self.runs]
        return [value if math.isfinite(value) else None for value in values]

    def values(self, metric: str) -> list[float]:
        """The metric of each run that has it, in the order of the seeds."""
        return [value for value in self.each(metric) if value is not None]

    def by_seed(self, metric: str) -> dict[int, float]:
        """The metric by seed, the independent unit; the mean over parameter sets where the arm pools several."""
        return self._mean_by_seed(self.each(metric))

    def each_signed(self, metric: str) -> list[float | None]:
        """As `each`, but δ where the metric is a bias |δ|: noise alone keeps |δ| above 0."""
        parts = parts_of(metric)
        if parts is None:
            return self.each(metric)
        pairs = zip(*map(self.each, parts), strict=True)
        return [None if first is None or second is None else first - second for first, second in pairs]

    def signed_by_seed(self, metric: str) -> dict[int, float]:
        """As `by_seed`, but δ where the metric is a bias |δ|."""
        return self._mean_by_seed(self.each_signed(metric))

    def _mean_by_seed(self, each: Sequence[float | None]) -> dict[int, float]:
        values: dict[int, list[float]] = {}
        for seed, value in zip(self.seeds, each, strict=True):
            if value is not None:
                values.setdefault(seed, []).append(value)
        return {seed: statistics.fmean(same) for seed, same in values.items()}

    def metrics(self) -> list[str]:
        """The names of all metrics that a complete run has."""
        return sorted({metric for run in self.runs for metric in run.metrics})


def with_runs(arms: Sequence[Arm]) -> list[Arm]:
    """The arms that have a complete run."""
    return [arm for arm in arms if arm.runs]


def names_of(arms: Sequence[Arm]) -> list[str]:
    """The name of each arm: its trial's number, STUDY/TRIAL with several studies, or a letter for pooled trials."""
    return arm_names([arm.trials for arm in arms])


def labels_of(arms: Sequence[Arm]) -> list[str]:
    """The settings of each arm in words, and that its trial is infeasible where it is."""
    labels = distinct_labels([arm.settings for arm in arms])
    return [marked(label, arm.feasible) for label, arm in zip(labels, arms, strict=True)]
