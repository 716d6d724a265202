"""Differences between arms, with what may be said of them: over trainings, and of the trained models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdvae.errors import InputError
from hdvae_platform.arms import Arm, label
from hdvae_platform.image_pairs import ImagePaired, ImageValues, image_paired
from hdvae_platform.inference import Interval, difference, holm, pairs, significance

ARMS = 12
"""Arms up to which each is compared with each."""


@dataclass(frozen=True)
class Difference:
    """Arm a minus arm b in one metric.

    Attributes:
        a: settings.
        b: settings.
        metric: full name.
        value: mean over seeds, the independent unit of a claim about training, and its interval.
        paired: whether the seeds were paired; otherwise the interval is Welch's.
        seeds: how many pairs, or seeds of both arms.
        p: two-sided, of no difference.
        p_holm: adjusted over all differences in this metric that are shown.
        models: of these trained models, over images; None where their values of each image are not at hand.
    """

    a: dict[str, Any]
    b: dict[str, Any]
    metric: str
    value: Interval
    paired: bool
    seeds: int
    p: float | None
    p_holm: float | None
    models: ImagePaired | None

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        names = {"a": self.a, "b": self.b, "metric": self.metric, **vars(self.value), "paired": self.paired}
        tested = {"seeds": self.seeds, "p": self.p, "p_holm": self.p_holm}
        return {**names, **tested, "models": None if self.models is None else self.models.plain()}


def couples(compared: Sequence[Arm], against: Mapping[str, Any] | None = None) -> list[tuple[Arm, Arm]]:
    """Which arms are compared: each with each, or with one; none where they are more than `ARMS`.

    Raises:
        InputError: `against` fits no arm, or several.
    """
    arms = [arm for arm in compared if arm.runs]
    if not against:
        return list(itertools.combinations(arms, 2)) if len(arms) <= ARMS else []
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


def _in_metric(compared: Sequence[tuple[Arm, Arm]], metric: str, values: ImageValues | None) -> list[Difference]:
    tested = []
    for a, b in compared:
        first, second = a.by_seed(metric), b.by_seed(metric)
        found = difference(first, second)
        if found is not None:
            seeds = len(pairs(first, second)) or len(first) + len(second)
            tested.append((a, b, *found, seeds, significance(first, second)))
    adjusted = holm([p for *_, p in tested])
    return [
        Difference(a.arm, b.arm, metric, value, paired, seeds, p, p_holm, _models(a, b, metric, values))
        for (a, b, value, paired, seeds, p), p_holm in zip(tested, adjusted, strict=True)
    ]


def _models(a: Arm, b: Arm, metric: str, values: ImageValues | None) -> ImagePaired | None:
    return None if values is None else image_paired(a, b, metric, values)
