"""Differences between the arms of a report, with Holm's correction over all pairs of arms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hdvae_platform.analysis.differences import MAX_ARMS_IN_PAIRS, over_seeds
from hdvae_platform.analysis.inference import Interval, holm
from hdvae_platform.report.arm_report import ArmReport, arms_with

ALPHA = 0.05
"""A difference is significant if Holm's adjusted p-value is below this."""


@dataclass(frozen=True)
class Difference:
    """The difference first − second between two arms in one metric.

    Attributes:
        first: the first arm.
        second: the second arm.
        interval: mean difference over seeds with its 95% interval.
        paired: whether the seeds are paired.
        seeds: number of pairs, or of seeds of both arms if they are not paired.
        adjusted: p-value adjusted by Holm's method over all pairs of arms that have the metric; None if untested.
    """

    first: ArmReport
    second: ArmReport
    interval: Interval
    paired: bool
    seeds: int
    adjusted: float | None

    @property
    def significant(self) -> bool:
        """Whether the adjusted p-value is below `ALPHA`."""
        return self.adjusted is not None and self.adjusted < ALPHA

    @property
    def upward(self) -> tuple[ArmReport, ArmReport, float, float, float]:
        """The arm with the larger mean, the other arm, and the positive difference with its limits.

        Only for a difference that was tested.
        """
        value = self.interval
        assert value.low is not None
        assert value.high is not None
        if value.mean >= 0:
            return self.first, self.second, value.mean, value.low, value.high
        return self.second, self.first, -value.mean, -value.high, -value.low


def differences(
    arms: Sequence[ArmReport], metric: str, quality: Callable[[ArmReport], float], omitted: int = 0
) -> list[Difference]:
    """The differences between arms that have a metric, with Holm's correction over all pairs of these arms.

    If there are too many arms to show all pairs, each arm is compared with the best one. The best arm is chosen by
    looking at the data, so the correction still counts all pairs. If it counted only the pairs shown, one in four
    studies of a hundred equal arms would show a significant difference.

    Args:
        arms: the arms of the report.
        metric: full name.
        quality: larger for better arms.
        omitted: number of further arms of the study that are not in the report because they are worse.
    """
    compared = arms_with(arms, metric)
    pairs = list(itertools.combinations(compared, 2))
    hypotheses = math.comb(len(compared) + omitted, 2)
    if len(compared) > MAX_ARMS_IN_PAIRS:
        best = max(compared, key=quality)
        pairs = [(best, arm) for arm in compared if arm is not best]
    tested = [(a, b, seeds) for a, b in pairs if (seeds := over_seeds(a.arm, b.arm, metric)) is not None]
    adjusted = holm([seeds.p for *_, seeds in tested], hypotheses)
    return [
        Difference(a, b, seeds.value, seeds.paired, seeds.seeds, p)
        for (a, b, seeds), p in zip(tested, adjusted, strict=True)
    ]
