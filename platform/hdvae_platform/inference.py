"""Intervals and tests for means and differences of means; SciPy's, and what pairs the values for them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy import stats

CONFIDENCE = 0.95
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% interval; the limits are None where one value leaves them open."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float]) -> Interval:
    """Student's interval for the mean of independent values.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484..., high=4.484...)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def pairs(a: Mapping[Key, float], b: Mapping[Key, float]) -> list[Key]:
    """The units that two arms share, if more than half of each arm's are: otherwise pairing would waste the rest."""
    shared = [key for key in a if key in b]
    return shared if 2 * len(shared) > max(len(a), len(b)) else []


def difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[Interval, bool] | None:
    """Mean of a − b over independent units, and whether they were paired; None without values.

    Args:
        a: value of each unit (a seed) of one arm.
        b: of the other.

    Returns:
        Student's interval of the paired differences where `pairs` finds units, else Welch's.
    """
    if not a or not b:
        return None
    shared = pairs(a, b)
    if shared:
        return interval([a[key] - b[key] for key in shared]), True
    mean = statistics.fmean(a.values()) - statistics.fmean(b.values())
    if min(len(a), len(b)) < 2:
        return Interval(mean, None, None), False
    limits = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).confidence_interval(CONFIDENCE)
    return Interval(mean, float(limits.low), float(limits.high)), False


def significance(a: Mapping[Key, float], b: Mapping[Key, float]) -> float | None:
    """Two-sided p-value of no difference, of the test that belongs to the interval of `difference`.

    None where there is no interval, or where differences that are all the same leave nothing to test against.
    """
    shared = pairs(a, b)
    if shared:
        apart = [a[key] - b[key] for key in shared]
        if len(apart) < 2 or len(set(apart)) == 1:
            return None
        return float(stats.ttest_1samp(apart, 0).pvalue)
    if min(len(a), len(b)) < 2 or len({*a.values()}) == len({*b.values()}) == 1:
        return None
    return float(stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values (1979): rejecting those below α errs anywhere with probability α at most.

    What was not tested (None) does not count.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted
