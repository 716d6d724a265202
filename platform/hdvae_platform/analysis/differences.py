"""Differences between arms: of their trainings, with the seed as the unit, and of their trained models, by image."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.arms import Arm, with_runs
from hdvae_platform.analysis.image_pairs import ImagePaired, ImageValues, image_paired
from hdvae_platform.analysis.inference import LEVEL, Interval, difference, holm, pairs, size_difference
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.metric_names import parts_of
from hdvae_platform.study.expectation import fitting as places_with

MAX_ARMS_IN_PAIRS = 12
"""The most arms of which every pair is compared."""


@dataclass(frozen=True)
class OverSeeds:
    """The difference between two arms in one metric, with the seed as the independent unit.

    Attributes:
        value: mean difference over seeds, and its 95% interval.
        paired: whether the seeds were paired; otherwise the interval is Welch's.
        seeds: number of pairs, or of seeds of both arms if they are not paired.
        p: two-sided p-value of no difference; None if it could not be tested.
    """

    value: Interval
    paired: bool
    seeds: int
    p: float | None


@dataclass(frozen=True)
class Difference:
    """Arm a minus arm b in one metric.

    Attributes:
        a: the first arm.
        b: the second arm.
        metric: full name.
        over_seeds: the difference between trainings.
        p_holm: p-value adjusted by Holm's method over all differences shown in this metric.
        models: the difference between these trained models, over images; None where values of each image are missing.
    """

    a: Arm
    b: Arm
    metric: str
    over_seeds: OverSeeds
    p_holm: float | None
    models: ImagePaired | None

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted p-value is below the level of tests."""
        return self.p_holm is not None and self.p_holm < LEVEL

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        seeds = self.over_seeds
        return {
            "a": self.a.settings,
            "b": self.b.settings,
            "metric": self.metric,
            **vars(seeds.value),
            "paired": seeds.paired,
            "seeds": seeds.seeds,
            "p": seeds.p,
            "p_holm": self.p_holm,
            "models": None if self.models is None else self.models.plain(),
        }


def arm_pairs(compared: Sequence[Arm], against: Mapping[str, Any] | None = None) -> list[tuple[Arm, Arm]]:
    """The pairs of arms to compare: every pair, or every arm with the one that has the settings `against`.

    Without `against` there are no pairs of more than `MAX_ARMS_IN_PAIRS` arms.

    Raises:
        InputError: `against` names a setting that does not differ between arms, or fits no arm, or several arms.
    """
    arms = with_runs(compared)
    if not against:
        return list(itertools.combinations(arms, 2)) if len(arms) <= MAX_ARMS_IN_PAIRS else []
    paths = {path for arm in arms for path in arm.settings}
    for path in against:
        if path not in paths:
            raise InputError(f"--against {path}: the arms do not differ in this setting{nearest(path, paths)}")
    fitting = [arms[place] for place in places_with([arm.settings for arm in arms], against)]
    if len(fitting) != 1:
        known = "; ".join(label(arm.settings) for arm in (fitting or arms)[:MAX_ARMS_IN_PAIRS])
        problem = "no arm has this; arms are" if not fitting else f"{len(fitting)} arms have this, and one is needed"
        raise InputError(f"--against {label(against)}: {problem}: {known}")
    return [(arm, fitting[0]) for arm in arms if arm is not fitting[0]]


def differences(
    compared: Sequence[tuple[Arm, Arm]], metrics: Sequence[str], values: ImageValues | None = None
) -> list[Difference]:
    """The differences in each metric between the arms of each pair, where both have the metric.

    Args:
        compared: pairs of arms.
        metrics: full names.
        values: reads the values of each image; None leaves out differences over images.
    """
    return [difference for metric in metrics for difference in _in_metric(compared, metric, values)]


def over_seeds(a: Arm, b: Arm, metric: str) -> OverSeeds | None:
    """The difference a − b over seeds; None where an arm lacks the metric.

    For a bias |δ| it is |mean δ of a| − |mean δ of b|: noise alone keeps |δ| above 0.
    """
    first, second = a.signed_by_seed(metric), b.signed_by_seed(metric)
    is_bias = parts_of(metric) is not None
    apart = (size_difference if is_bias else difference)(first, second)
    if apart is None:
        return None
    units = len(pairs(first, second)) or len(first) + len(second)
    return OverSeeds(apart.interval(), apart.paired, units, apart.p)


def _in_metric(compared: Sequence[tuple[Arm, Arm]], metric: str, values: ImageValues | None) -> list[Difference]:
    tested = [(a, b, seeds) for a, b in compared if (seeds := over_seeds(a, b, metric)) is not None]
    adjusted = holm([seeds.p for *_, seeds in tested])
    return [
        Difference(a, b, metric, seeds, p_holm, None if values is None else image_paired(a, b, metric, values))
        for (a, b, seeds), p_holm in zip(tested, adjusted, strict=True)
    ]
