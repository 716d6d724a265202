"""Tests of order in blocks: do values grow with the level, whatever the height of each block?

Page's test (1963) where every block has every level, otherwise Jonckheere's and Terpstra's statistic summed over
blocks, which may be incomplete. Both use only the order within blocks. Under the hypothesis of no trend every order
within a block is equally likely, and blocks are independent.

Blocks of one seed may depend on each other: for example, they share the order of the training data. `permutation_p`
does not assume that they are independent. It permutes the levels in the same way in all blocks of a seed.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Direction = Literal["increasing", "decreasing", "two-sided"]
MAX_EXACT_PAIRS = 20_000
"""Pairs of values up to which the distribution of Jonckheere's statistic is computed exactly."""
MAX_ORDERS = 5040
"""Orders of the levels up to which all are enumerated, for each seed; of more orders, this many are drawn."""

Block = Mapping[float, float]
"""Level → value."""


@dataclass(frozen=True)
class RankTest:
    """The result of a test of order: the statistic, and the one-sided p-value of each direction."""

    name: Literal["page", "jonckheere"]
    statistic: float
    increasing: float
    decreasing: float
    exact: bool

    def p(self, direction: Direction) -> float:
        """The p-value; two-sided, it is twice the smaller one."""
        if direction == "two-sided":
            return min(1.0, 2 * min(self.increasing, self.decreasing))
        return self.increasing if direction == "increasing" else self.decreasing


def rank_test(rows: Sequence[Sequence[float]]) -> RankTest:
    """Page's test for two or more complete blocks of three or more levels without ties, else Jonckheere's.

    Args:
        rows: the values of each block in the order of their levels.
    """
    tied = any(len(set(row)) < len(row) for row in rows)
    if len(rows) < 2 or len({len(row) for row in rows}) > 1 or len(rows[0]) < 3 or tied:
        return jonckheere(rows)
    up = stats.page_trend_test(np.array(rows))
    down = stats.page_trend_test(np.array(rows), predicted_ranks=np.arange(len(rows[0]), 0, -1))
    return RankTest("page", float(up.statistic), float(up.pvalue), float(down.pvalue), up.method == "exact")


def jonckheere(rows: Sequence[Sequence[float]]) -> RankTest:
    """Jonckheere's and Terpstra's test: the number of increasing pairs within blocks, ties half (Jonckheere 1954).

    Without ties, the statistic is distributed as a sum of uniform numbers on 0 … m for every m below the size of each
    row (the number of inversions of a random permutation); the convolution is computed up to `MAX_EXACT_PAIRS` pairs.
    Otherwise the normal approximation is used, with the variance of Kendall's S under ties (Kendall 1970, eq. 4.3) and
    a correction for continuity.

    Args:
        rows: the values of each block in the order of their levels.
    """
    total = sum(math.comb(len(row), 2) for row in rows)
    statistic = sum((b > a) + (b == a) / 2 for row in rows for a, b in itertools.combinations(row, 2))
    tied = any(len(set(row)) < len(row) for row in rows)
    if tied or total > MAX_EXACT_PAIRS:
        deviation = math.sqrt(sum(map(_kendall_variance, rows)))
        if deviation == 0:
            return RankTest("jonckheere", statistic, 1.0, 1.0, False)
        up, down = ((sign * (statistic - total / 2) - 0.5) / deviation for sign in (1, -1))
        return RankTest("jonckheere", statistic, float(stats.norm.sf(up)), float(stats.norm.sf(down)), False)
    distribution = np.ones(1)
    for m in (m for row in rows for m in range(1, len(row))):
        distribution = np.convolve(distribution, np.full(m + 1, 1 / (m + 1)))
    count = int(statistic)
    increasing, decreasing = float(distribution[count:].sum()), float(distribution[: count + 1].sum())
    return RankTest("jonckheere", statistic, increasing, decreasing, True)


def permutation_p(by_seed: Iterable[Sequence[Block]], direction: Direction) -> float:
    """The p-value of Jonckheere's statistic where the levels of all blocks of a seed are permuted together.

    The distribution of each seed's part is taken over all orders of its levels, or over randomly drawn orders. The
    parts of different seeds are independent, so their distributions are convolved, in steps of one half.

    Args:
        by_seed: for each seed its blocks, each with two levels or more.
        direction: the alternative.
    """
    distribution, observed = np.ones(1), 0
    for blocks in by_seed:
        doubled = _doubled_statistics(blocks)
        observed += int(doubled[0])
        distribution = np.convolve(distribution, np.bincount(doubled) / len(doubled))
    up, down = float(distribution[observed:].sum()), float(distribution[: observed + 1].sum())
    p = min(1.0, 2 * min(up, down)) if direction == "two-sided" else up if direction == "increasing" else down
    return min(1.0, p)


def _doubled_statistics(blocks: Sequence[Block]) -> np.ndarray:
    """Twice the statistic of a seed's blocks: first as observed, then for other orders of their levels."""
    levels = sorted({level for block in blocks for level in block})
    count, place = len(levels), {level: i for i, level in enumerate(levels)}
    rising = np.zeros((count, count), dtype=np.int64)
    for block in blocks:
        for (a, before), (b, after) in itertools.permutations(block.items(), 2):
            rising[place[a], place[b]] += 2 * (after > before) + (after == before)
    if math.factorial(count) <= MAX_ORDERS:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        random = np.random.default_rng(0)
        orders = np.array([range(count), *(random.permutation(count) for _ in range(MAX_ORDERS - 1))])
    pairs = itertools.combinations(range(count), 2)
    doubled: np.ndarray = sum(rising[orders[:, i], orders[:, j]] for i, j in pairs)
    return doubled


def _kendall_variance(row: Sequence[float]) -> float:
    """The variance of Jonckheere's statistic in one row under no trend, with ties."""

    def term(n: int) -> int:
        return n * (n - 1) * (2 * n + 5)

    return (term(len(row)) - sum(term(count) for count in Counter(row).values())) / 72
