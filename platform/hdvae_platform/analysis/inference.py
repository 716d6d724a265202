"""Intervals and tests for means and differences of means, paired by seed where possible."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from scipy import special

LEVEL = 0.05
"""The level of tests and intervals, unless another one is stated: intervals have 95%."""
Key = TypeVar("Key", bound=Hashable)
Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Interval:
    """A mean with its interval; the limits are None where the spread is not known, as with a single value."""

    mean: float
    low: float | None
    high: float | None


def interval(values: Sequence[float]) -> Interval:
    """Student's 95% interval for the mean of independent values.

    >>> interval([1.0, 2.0, 3.0])
    Interval(mean=2.0, low=-0.484..., high=4.484...)
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return _around(mean, _quantile(len(values) - 1, LEVEL) * error)


@functools.lru_cache
def _quantile(freedom: float, level: float) -> float:
    """Student's quantile of the upper limit; cached, since tens of thousands of intervals share a few of them."""
    return float(special.stdtrit(freedom, 1 - level / 2))


def _around(mean: float, half: float) -> Interval:
    """The interval mean ± half; without limits where they are not finite."""
    low, high = mean - half, mean + half
    return Interval(mean, low, high) if math.isfinite(low) and math.isfinite(high) else Interval(mean, None, None)


def two_sided_p(mean: Numbers, error: Numbers, freedom: Numbers) -> Numbers:
    """Student's two-sided p-value of a mean of 0, elementwise.

    Args:
        mean: estimates.
        error: their standard errors, above 0.
        freedom: degrees of freedom.
    """
    p: Numbers = 2 * special.stdtr(freedom, -np.abs(mean) / error)
    return p


class Contrast(Protocol):
    """An estimated difference between two arms: its test, and the interval that belongs to the test.

    At any level, the interval excludes 0 exactly if the p-value is below the level.
    """

    @property
    def mean(self) -> float:
        """The estimate."""
        ...

    @property
    def paired(self) -> bool:
        """Whether the units (seeds) are paired."""
        ...

    @property
    def p(self) -> float | None:
        """Two-sided p-value of no difference; None where the spread over the units is not known."""
        ...

    def interval(self, level: float = LEVEL) -> Interval:
        """The interval of the test at a level."""
        ...


@dataclass(frozen=True)
class MeanDifference:
    """A mean difference over independent units with Student's law.

    Attributes:
        mean: the mean difference.
        error: its standard error; 0 where the spread is not known: of a single unit, or of values that are all equal.
        freedom: its degrees of freedom.
        paired: whether it is the mean over pairs of units; otherwise the law is Welch's.
    """

    mean: float
    error: float
    freedom: float
    paired: bool

    @property
    def p(self) -> float | None:
        """Two-sided p-value of no difference; None where the spread is not known."""
        return float(two_sided_p(self.mean, self.error, self.freedom)) if self.error else None

    def p_above(self, limit: float) -> float | None:
        """One-sided p-value of a difference of at most `limit`; None where the spread is not known."""
        return float(special.stdtr(self.freedom, (limit - self.mean) / self.error)) if self.error else None

    def interval(self, level: float = LEVEL) -> Interval:
        """Student's interval; without limits where the spread is not known."""
        if not self.error:
            return Interval(self.mean, None, None)
        return _around(self.mean, _quantile(self.freedom, level) * self.error)


def pairs(a: Mapping[Key, float], b: Mapping[Key, float]) -> list[Key]:
    """The units that two arms share, if they are more than half of each arm's: fewer pairs would waste the rest."""
    shared = [key for key in a if key in b]
    return shared if 2 * len(shared) > max(len(a), len(b)) else []


def difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> MeanDifference | None:
    """Mean of a − b over independent units; None without values.

    It is paired where `pairs` gives any units, else Welch's. SciPy's `ttest_ind` is not used: it prints a warning about
    precision for values that hardly differ.

    Args:
        a: the value of each unit (a seed) in one arm.
        b: the same in the other arm.
    """
    if not a or not b:
        return None
    shared = pairs(a, b)
    if shared:
        apart = [a[key] - b[key] for key in shared]
        error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else 0.0
        return MeanDifference(statistics.fmean(apart), error, len(apart) - 1, paired=True)
    mean = statistics.fmean(a.values()) - statistics.fmean(b.values())
    error, freedom = _welch([*a.values()], [*b.values()]) if min(len(a), len(b)) > 1 else (0.0, 0.0)
    return MeanDifference(mean, error, freedom, paired=False)


def _welch(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The standard error of a difference of means, and its degrees of freedom (Welch 1947); both 0 without spread."""
    parts = [statistics.variance(values) / len(values) for values in (a, b)]
    whole = sum(parts)
    if not whole:
        return 0.0, 0.0
    spread = sum((part / whole) ** 2 / (len(values) - 1) for part, values in zip(parts, (a, b), strict=True))
    return math.sqrt(whole), 1 / spread


@dataclass(frozen=True)
class SizeDifference:
    """|mean of a| − |mean of b|, from signed values.

    With d = a − b and s = a + b it is max(min(d, s), min(−d, −s)), and it is 0 where the means are equal (d = 0) or
    opposite (s = 0). It differs from 0 only where both are rejected (Berger 1982), so that the test keeps its level
    whatever the signs.

    Attributes:
        d: a − b.
        s: a + b.
    """

    d: MeanDifference
    s: MeanDifference

    @property
    def mean(self) -> float:
        """The estimate."""
        return max(min(self.d.mean, self.s.mean), min(-self.d.mean, -self.s.mean))

    @property
    def paired(self) -> bool:
        """Whether the units are paired."""
        return self.d.paired

    @property
    def p(self) -> float | None:
        """p-value of equal sizes: the larger one of those of d = 0 and s = 0; None where one is not known."""
        equal, opposite = self.d.p, self.s.p
        return None if equal is None or opposite is None else max(equal, opposite)

    def interval(self, level: float = LEVEL) -> Interval:
        """All values of the difference of sizes for which d and s lie in their intervals."""
        d, s = self.d.interval(level), self.s.interval(level)
        if d.low is None or d.high is None or s.low is None or s.high is None:
            return Interval(self.mean, None, None)
        low = min(max(d.low, -s.high), max(-d.high, s.low))
        return Interval(self.mean, low, max(min(d.high, s.high), min(-d.low, -s.low)))


def size_difference(a: Mapping[Key, float], b: Mapping[Key, float]) -> SizeDifference | None:
    """|mean of a| − |mean of b|, from signed values; None without values."""
    d, s = difference(a, b), difference(a, {key: -value for key, value in b.items()})
    return None if d is None or s is None else SizeDifference(d, s)


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


def holm_levels(p_values: Sequence[float | None], level: float = LEVEL, hypotheses: int = 0) -> list[float | None]:
    """The level at which Holm's method tests each hypothesis: it is rejected exactly if its p-value is below that.

    A rejected hypothesis was tested at level / (number of those not rejected before it); the first one that is not
    rejected ends the tests, and its level is that of all that are left.

    Args:
        p_values: one for each test; None for those untested.
        level: of all tests together.
        hypotheses: as in `holm`.

    >>> holm_levels([0.01, None, 0.04, 0.03])
    [0.0166..., None, 0.025, 0.025]
    """
    adjusted = holm(p_values, hypotheses)
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    of, rejected = max(len(tested), hypotheses), sum(one is not None and one < level for one in adjusted)
    levels: list[float | None] = [None] * len(p_values)
    for rank, (_, i) in enumerate(tested):
        levels[i] = level / (of - min(rank, rejected))
    return levels


def error_bars(intervals: Sequence[Interval]) -> tuple[list[float], list[float]]:
    """The lengths of the lower and upper error bars of intervals; 0 where an interval has no limits."""
    lower = [0.0 if one.low is None else one.mean - one.low for one in intervals]
    return lower, [0.0 if one.high is None else one.high - one.mean for one in intervals]
