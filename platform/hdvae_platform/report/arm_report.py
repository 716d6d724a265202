"""An arm of the study in the report, with everything that its figures need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae.experiment.experiment import Experiment
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.inference import Interval
from hdvae_platform.analysis.plus_minus import error_over_images, mean_over_seeds
from hdvae_platform.study.pareto import is_dominated
from hdvae_platform.study.search_config import Direction
from hdvae_platform.study.study import Study

MAX_HIGHLIGHTED = 7
"""Arms that have a colour of their own in figures: as many as there are colours."""
MAX_ARMS = 500
"""The most arms in a report; of more, it shows the best."""

MAX_PRUNED = 300
"""The most pruned runs that figures show: the last ones."""

Curve = Mapping[int, Mapping[str, float]]
"""Step → metrics reported at that step, by full name."""


@dataclass(frozen=True)
class Samples:
    """The picture of a run's prior samples: the run's handle and a PNG."""

    handle: str
    png: bytes


@dataclass(frozen=True)
class PrunedRun:
    """A run that was stopped early: its varied settings, and its curve up to there."""

    settings: Mapping[str, Any]
    curve: Curve

    @property
    def last(self) -> Mapping[str, float]:
        """The metrics of its last report."""
        return self.curve[max(self.curve)] if self.curve else {}


@dataclass
class ArmReport:
    """An arm, and what its figures need.

    Attributes:
        name: the arm's name on the page and in figures: its trial's number, or a letter if it pools several trials.
        place: its position among all arms of the study, in the order of the trials.
        label: the settings in words, different for every arm.
        arm: its runs.
        experiment: its settings as an experiment.
        style: index of its colour, line and marker if it is highlighted in figures, else None.
        curves: MLflow's id of a run → its learning curve; for highlighted arms only.
        samples: prior samples of one of its runs; for highlighted arms only.
    """

    name: str
    place: int
    label: str
    arm: Arm
    experiment: Experiment
    style: int | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    samples: Samples | None = None

    @property
    def is_allowed(self) -> bool:
        """Whether its trial is not known to break the constraints of the search."""
        return self.arm.feasible is not False

    def interval(self, metric: str) -> Interval | None:
        """Mean over the seeds that have the metric, with its 95% interval; None without a value."""
        return mean_over_seeds(self.arm, metric)

    def values(self, metric: str) -> list[float]:
        """The finite values of the metric, one for each run that has it."""
        return self.arm.values(metric)

    def standard_error(self, metric: str) -> float | None:
        """The standard error of the metric over images: the root mean square over runs; None without one."""
        return error_over_images(self.arm, metric)


def quality(arm: ArmReport, study: Study) -> float:
    """The mean of the study's metric, with its sign turned so that larger is better; −∞ without a value."""
    value = arm.interval(study.search.metric)
    sign = 1 if study.search.direction == "maximize" else -1
    return -math.inf if value is None else sign * value.mean


def pareto_front(arms: Sequence[ArmReport], objectives: Mapping[str, Direction]) -> list[ArmReport]:
    """The feasible arms that no other one dominates in these metrics, by their means; with one metric, the best."""
    compared = [arm for arm in arms if arm.is_allowed and all(arm.values(metric) for metric in objectives)]
    scores = [[_score(arm, metric, way) for metric, way in objectives.items()] for arm in compared]
    return [arm for arm, score in zip(compared, scores, strict=True) if not is_dominated(score, scores)]


def _score(arm: ArmReport, metric: str, direction: Direction) -> float:
    """The mean of a metric that the arm has, with its sign turned so that larger is better."""
    value = arm.interval(metric)
    assert value is not None
    return value.mean if direction == "maximize" else -value.mean


def arms_with(arms: Sequence[ArmReport], metric: str) -> list[ArmReport]:
    """The arms that have a value of a metric."""
    return [arm for arm in arms if arm.values(metric)]


def best_arms(arms: Sequence[ArmReport], study: Study) -> list[ArmReport]:
    """The best arms in the order of the trials; the best of those with complete runs get a style for figures.

    In a search for several metrics, those of the Pareto front come first. Infeasible ones come last.
    """
    front = {arm.name for arm in pareto_front(arms, study.search.objectives)}
    best = sorted(arms, key=lambda arm: (arm.name in front, arm.is_allowed, quality(arm, study)), reverse=True)[
        :MAX_ARMS
    ]
    highlighted = [arm for arm in best if arm.arm.runs][:MAX_HIGHLIGHTED]
    for style, arm in enumerate(sorted(highlighted, key=lambda arm: arm.place)):
        arm.style = style
    return sorted(best, key=lambda arm: arm.place)
