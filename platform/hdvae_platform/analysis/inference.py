"""Intervals and tests for means and differences of means, paired by seed where possible."""

from __future__ import annotations

import functools
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
    """A mean with its 95% interval; the limits are None where a single value gives none."""

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
    return _around(mean, _quantile(len(values) - 1) * error)


@functools.lru_cache
def _quantile(freedom: float) -> float:
    """Student's quantile of the upper limit; cached, since tens of thousands of intervals share a few of them."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _around(mean: float, half: float) -> Interval:
    """The interval mean ± half; without limits where they are not finite."""
    low, high = mean - half, mean + half
    return Interval(mean, low, high) if math.isfinite(low) and math.isfinite(high) else Interval(mean, None, None)


def pairs(a: Mapping[Key, float], b: Mapping[Key, float]) -> list[Key]:
    """The units that two arms share, if they are more than half of each arm's: fewer pairs would waste the rest."""
    shared = [key for key in a if key in b]
    return shared if 2 * len(shared) > max(len(a), len(b)) else []


def difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[Interval, bool] | None:
    """Mean of a − b over independent units, and whether the units were paired; None without values.

    Args:
        a: the value of each unit (a seed) in one arm.
        b: the same in the other arm.

    Returns:
        Student's interval of the paired differences where `pairs` gives any units, else Welch's interval.
    """
    if not a or not b:
        return None
    shared = pairs(a, b)
    if shared:
        return interval([a[key] - b[key] for key in shared]), True
    mean = statistics.fmean(a.values()) - statistics.fmean(b.values())
    if min(len(a), len(b)) < 2:
        return Interval(mean, None, None), False
    error, freedom = _welch([*a.values()], [*b.values()])
    return (_around(mean, _quantile(freedom) * error) if error else Interval(mean, None, None)), False


def significance(a: Mapping[Key, float], b: Mapping[Key, float]) -> float | None:
    """Two-sided p-value of no difference, by the test that belongs to the interval of `difference`.

    None where there is no interval, or where all differences are equal, so that their spread is unknown.
    """
    shared = pairs(a, b)
    if shared:
        apart = [a[key] - b[key] for key in shared]
        if len(apart) < 2 or len(set(apart)) == 1:
            return None
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        return 2 * float(stats.t.sf(abs(statistics.fmean(apart)) / error, len(apart) - 1))
    if min(len(a), len(b)) < 2 or len({*a.values()}) == len({*b.values()}) == 1:
        return None
    error, freedom = _welch([*a.values()], [*b.values()])
    return 2 * float(stats.t.sf(abs(statistics.fmean(a.values()) - statistics.fmean(b.values())) / error, freedom))


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The standard error of a difference of means, and its degrees of freedom (Welch 1947); both 0 without spread.

    SciPy's `ttest_ind` is not used: it prints a warning about precision for values that hardly differ.
    """
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    whole = sum(parts)
    if not whole:
        return 0.0, 0.0
    spread = sum((part / whole) ** 2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    return math.sqrt(whole), 1 / spread


def size_difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[Interval, bool] | None:
    """|mean of a| − |mean of b|, as `difference`, from signed values.

    The interval covers every combination of signs that the arms' own intervals allow: where neither mean is clearly
    away from 0, it contains 0.
    """
    differences = [difference(_scaled(a, s), _scaled(b, t)) for s in _signs(a) for t in _signs(b)]
    possible = [one for one in differences if one is not None]
    if not possible:
        return None
    first, paired = possible[0]
    lows = [value.low for value, _ in possible if value.low is not None]
    highs = [value.high for value, _ in possible if value.high is not None]
    return Interval(first.mean, min(lows, default=None), max(highs, default=None)), paired


def size_significance(a: Mapping[Key, float], b: Mapping[Key, float]) -> float | None:
    """p-value of |mean of a| = |mean of b|, from signed values; None as in `significance`.

    The hypothesis says that the means are equal or opposite. It is rejected only where both are rejected (Berger 1982),
    so that the test keeps its level whatever the signs.
    """
    equal, opposite = significance(a, b), significance(a, _scaled(b, -1))
    return None if equal is None or opposite is None else max(equal, opposite)


def _signs(values: Mapping[Key, float]) -> list[int]:
    """The sign of the mean, and the opposite sign where the interval of the mean contains 0."""
    if not values:
        return []
    value = interval(list(values.values()))
    sign = 1 if value.mean >= 0 else -1
    clear = value.low is not None and value.high is not None and (value.low > 0 or value.high < 0)
    return [sign] if clear else [sign, -sign]


def _scaled(values: Mapping[Key, float], sign: int) -> dict[Key, float]:
    return {key: sign * value for key, value in values.items()}


def holm(p_values: Sequence[float | None], hypotheses: int = 0) -> list[float | None]:
    """Holm's adjusted p-values (1979): rejecting those below α makes any false rejection at most with probability α.

    Untested hypotheses (None) do not count.

    Args:
        p_values: one for each test.
        hypotheses: the number of hypotheses from which these were chosen by looking at the data, if that is larger.

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    >>> holm([0.01, 0.04], hypotheses=10)
    [0.1, 0.36]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest, of = 0.0, max(len(order), hypotheses)
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (of - rank) * p))
        adjusted[i] = largest
    return adjusted


def error_bars(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """The lengths of the lower and upper error bars of intervals; 0 where an interval has no limits."""
    lower = [0.0 if one.low is None else one.mean - one.low for one in intervals]
    return lower, [0.0 if one.high is None else one.high - one.mean for one in intervals]
