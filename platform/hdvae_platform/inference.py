"""Tests of differences between means; SciPy's, and Holm's correction for making many of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scipy import stats


def significance(a: Mapping[int, float], b: Mapping[int, float]) -> float | None:
    """Two-sided p-value of no difference, of the test that belongs to the interval of `comparison.difference`.

    None where there is no interval, or where differences that are all the same leave nothing to test against.

    Args:
        a: value by seed of one arm.
        b: of the other; paired where the seeds are the same, else Welch's test.
    """
    if set(a) == set(b):
        apart = [a[seed] - b[seed] for seed in sorted(a)]
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
