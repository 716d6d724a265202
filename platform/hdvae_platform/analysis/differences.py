"""Differences between arms, with what may be said of them: over trainings, and of the trained models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.arms import Arm, label, parts_of, with_runs
from hdvae_platform.analysis.image_pairs import ImagePaired, ImageValues, image_paired
from hdvae_platform.analysis.inference import (
    Interval,
    difference,
    holm,
    pairs,
    significance,
    size_difference,
    size_significance,
)

ARMS = 12
"""Arms up to which each is compared with each."""


@dataclass(frozen=True)
class OverSeeds:
    """A difference between the trainings of two arms in one metric.

    Attributes:
        value: mean over seeds, the independent unit of a claim about training, and its interval.
        paired: whether the seeds were paired; otherwise the interval is Welch's.
        seeds: how many pairs, or seeds of both arms.
        p: two-sided, of no difference.
    """

    value: Interval
    paired: bool
    seeds: int
    p: float | None


@dataclass(frozen=True)
class Difference:
    """Arm a minus arm b in one metric.

    Attributes:
        a: settings.
        b: settings.
        metric: full name.
        trainings: over seeds.
        p_holm: adjusted over all differences in this metric that are shown.
        models: of these trained models, over images; None where their values of each image are not at hand.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    metric: str
    trainings: OverSeeds
    p_holm: float | None
    models: ImagePaired | None

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        found = self.trainings
        names = {"a": self.a, "b": self.b, "metric": self.metric, **vars(found.value), "paired": found.paired}
        tested = {"seeds": found.seeds, "p": found.p, "p_holm": self.p_holm}
        return {**names, **tested, "models": None if self.models is None else self.models.plain()}


def couples(compared: Sequence[Arm], against: Mapping[str, Any] | None = None) -> list[tuple[Arm, Arm]]:
    """Which arms are compared: each with each, or with one; none where they are more than `ARMS`.

    Raises:
        InputError: `against` names what tells no arm apart, or fits no arm, or several.
    """
    arms = with_runs(compared)
    if not against:
        return list(itertools.combinations(arms, 2)) if len(arms) <= ARMS else []
    paths = {path for arm in arms for path in arm.arm}
    for path in against:
        if path not in paths:
            raise InputError(f"--against {path}: no setting that tells these arms apart{nearest(path, paths)}")
    fitting = [arm for arm in arms if against.items() <= {k: v for k, v in arm.arm.items() if k in against}.items()]
    if len(fitting) != 1:
        known = "; ".join(label(arm.arm) for arm in (fitting or arms)[:ARMS])
        raise InputError(f"--against {label(against)}: {len(fitting) or 'no'} arms have this: {known}")
    return [(arm, fitting[0]) for arm in arms if arm is not fitting[0]]


def differences(
    compared: Sequence[tuple[Arm, Arm]], metrics: Sequence[str], values: ImageValues | None = None
) -> list[Difference]:
    """The differences in each metric between pairs of arms that have it.

    Args:
        compared: pairs of arms.
        metrics: full names.
        values: of each image, where they are to be read.
    """
    return [one for metric in metrics for one in _in_metric(compared, metric, values)]


def over_seeds(a: Arm, b: Arm, metric: str) -> OverSeeds | None:
    """The difference a − b between trainings; None where an arm lacks the metric.

    Of a bias |δ| it is taken and tested on δ: |δ| is above 0 by noise alone.
    """
    first, second = a.signed_by_seed(metric), b.signed_by_seed(metric)
    distance = parts_of(metric) is not None
    found = (size_difference if distance else difference)(first, second)
    if found is None:
        return None
    p = (size_significance if distance else significance)(first, second)
    return OverSeeds(*found, len(pairs(first, second)) or len(first) + len(second), p)


def _in_metric(compared: Sequence[tuple[Arm, Arm]], metric: str, values: ImageValues | None) -> list[Difference]:
    tested = [(a, b, found) for a, b in compared if (found := over_seeds(a, b, metric)) is not None]
    adjusted = holm([found.p for *_, found in tested])
    return [
        Difference(a.arm, b.arm, metric, found, p_holm, _models(a, b, metric, values))
        for (a, b, found), p_holm in zip(tested, adjusted, strict=True)
    ]


def _models(a: Arm, b: Arm, metric: str, values: ImageValues | None) -> ImagePaired | None:
    return None if values is None else image_paired(a, b, metric, values)
