"""Intervals and tests for means and differences of means; SciPy's, and what pairs the values for them."""

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
    return _around(mean, _quantile(len(values) - 1) * error)


@functools.lru_cache
def _quantile(freedom: float) -> float:
    """Student's, of the upper limit: the same few for tens of thousands of intervals."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def _around(mean: float, half: float) -> Interval:
    """The interval that reaches so far to both sides; one without end has no limits."""
    low, high = mean - half, mean + half
    return Interval(mean, low, high) if math.isfinite(low) and math.isfinite(high) else Interval(mean, None, None)


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
    error, freedom = _welch([*a.values()], [*b.values()])
    return (_around(mean, _quantile(freedom) * error) if error else Interval(mean, None, None)), False


def significance(a: Mapping[Key, float], b: Mapping[Key, float]) -> float | None:
    """Two-sided p-value of no difference, of the test that belongs to the interval of `difference`.

    None where there is no interval, or where differences that are all the same leave nothing to test against.
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

    Not SciPy's `ttest_ind`, which warns of a loss of precision, with the path of a file, for values that hardly differ.
    """
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    whole = sum(parts)
    if not whole:
        return 0.0, 0.0
    spread = sum((part / whole) ** 2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    return math.sqrt(whole), 1 / spread


def size_difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> tuple[Interval, bool] | None:
    """|mean of a| − |mean of b|, as `difference`, from values with their signs.

    The interval reaches over every sign that the arms' own intervals leave open: where neither mean is clearly away
    from 0, it holds 0.
    """
    turned = [difference(_times(a, s), _times(b, t)) for s in _signs(a) for t in _signs(b)]
    found = [one for one in turned if one is not None]
    if not found:
        return None
    first, paired = found[0]
    lows = [value.low for value, _ in found if value.low is not None]
    highs = [value.high for value, _ in found if value.high is not None]
    return Interval(first.mean, min(lows, default=None), max(highs, default=None)), paired


def size_significance(a: Mapping[Key, float], b: Mapping[Key, float]) -> float | None:
    """p-value of |mean of a| = |mean of b|, from values with their signs; None as in `significance`.

    That holds where the means are equal or opposite: it is rejected where both are (Berger 1982), which keeps the
    level whatever the signs.
    """
    equal, opposite = significance(a, b), significance(a, _times(b, -1))
    return None if equal is None or opposite is None else max(equal, opposite)


def _signs(values: Mapping[Key, float]) -> list[int]:
    """The sign of the mean, and the other one where the interval of the mean leaves it open."""
    if not values:
        return []
    found = interval(list(values.values()))
    sign = 1 if found.mean >= 0 else -1
    clear = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return [sign] if clear else [sign, -sign]


def _times(values: Mapping[Key, float], sign: int) -> dict[Key, float]:
    return {key: sign * value for key, value in values.items()}


def holm(p_values: Sequence[float | None], hypotheses: int = 0) -> list[float | None]:
    """Holm's adjusted p-values (1979): rejecting those below α errs anywhere with probability α at most.

    What was not tested (None) does not count.

    Args:
        p_values: of the tests.
        hypotheses: of how many they were chosen by looking at the data, if these are more than they.

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


def bars(found: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """How far intervals reach below and above their means; 0 where there is but a mean."""
    below = [0.0 if one.low is None else one.mean - one.low for one in found]
    return below, [0.0 if one.high is None else one.high - one.mean for one in found]
