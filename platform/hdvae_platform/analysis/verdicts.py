"""Whether the data support what a study file expects: each expectation and its opposite are tested over seeds.

An expectation is supported if its one-sided p-value, adjusted by Holm's method for all expectations of the study, is
below `ALPHA`. It is contradicted if the p-value of its opposite is. Otherwise it is inconclusive.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import Arm, with_runs
from hdvae_platform.analysis.blocks import blocks_of
from hdvae_platform.analysis.inference import (
    Interval,
    difference,
    holm,
    significance,
    size_difference,
    size_significance,
)
from hdvae_platform.analysis.labels import expectation_in_words, label
from hdvae_platform.analysis.metric_names import parts_of
from hdvae_platform.analysis.trends import Trend, trend
from hdvae_platform.display.text import between, signed
from hdvae_platform.study.expectation import Expectation, fitting, sides

ALPHA = 0.05
"""Level of the tests."""
UNTESTED = "not tested: that needs two seeds in each arm, and differences that are not all equal"
Answer = Literal["supported", "contradicted", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """The verdict of the data on one expectation.

    Attributes:
        expected: the expectation in words.
        answer: whether the data support it.
        why: the numbers that the answer rests on, or why it could not be tested.
        difference: the difference, or the change from the first level of a trend to the last; None without one.
        p_for: adjusted p-value of the test for the expectation; small where the data support it. None if untested.
        p_against: adjusted p-value of the test for its opposite.
    """

    expected: str
    answer: Answer
    why: str
    difference: Interval | None
    p_for: float | None
    p_against: float | None

    @property
    def numbers(self) -> str:
        """The numbers that the answer rests on, with adjusted p-values."""
        if self.p_for is None or self.p_against is None:
            return self.why
        return f"{self.why}; adjusted p = {self.p_for:.2g}, for the opposite {self.p_against:.2g}"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        return {**vars(self), "difference": None if self.difference is None else vars(self.difference)}


@dataclass(frozen=True)
class _TestResult:
    """The result of testing an expectation, before the p-values are adjusted."""

    why: str
    difference: Interval | None = None
    p_for: float | None = None
    p_against: float | None = None


def verdicts(expected: Sequence[Expectation], compared: Sequence[Arm]) -> list[Verdict]:
    """The verdicts of a study's complete runs on its expectations.

    Args:
        expected: the expectations of the study file.
        compared: the arms, grouped by everything that was varied.
    """
    results = [_test(one, with_runs(compared)) for one in expected]
    adjusted = zip(holm([one.p_for for one in results]), holm([one.p_against for one in results]), strict=True)
    return [
        Verdict(expectation_in_words(one), _answer(p_for, p_against), result.why, result.difference, p_for, p_against)
        for one, result, (p_for, p_against) in zip(expected, results, adjusted, strict=True)
    ]


def overall(each: Sequence[Verdict]) -> Answer:
    """The verdict on a claim: supported if all expectations are supported, contradicted if any is contradicted."""
    answers = {verdict.answer for verdict in each}
    return "contradicted" if "contradicted" in answers else "supported" if answers == {"supported"} else "inconclusive"


def _answer(p_for: float | None, p_against: float | None) -> Answer:
    if p_for is not None and p_for < ALPHA:
        return "supported"
    return "contradicted" if p_against is not None and p_against < ALPHA else "inconclusive"


def _test(one: Expectation, compared: Sequence[Arm]) -> _TestResult:
    """Test one expectation."""
    if one.trend is not None:
        return _test_trend(one, one.trend, compared)
    assert one.pair is not None
    settings = [arm.settings for arm in compared]
    groups = [fitting(settings, group) for group in one.pair]
    for group, places in zip(one.pair, groups, strict=True):
        if not any(compared[place].by_seed(one.metric) for place in places):
            return _TestResult(f"no complete run with {label(group)} has {one.metric}")
    both = set(groups[0]) & set(groups[1])
    if both:
        return _TestResult(f"the arm with {label(settings[min(both)])} belongs to both groups")
    matched = [
        _Match(*(_mean_by_seed([compared[place].signed_by_seed(one.metric) for place in places]) for places in side))
        for side in sides(*one.pair, settings)
    ]
    if not matched:
        return _TestResult("no arm of the one group has the same other settings as an arm of the other group")
    kept = _most_data(matched)
    if not kept:
        return _TestResult(f"no seed has {one.metric} in all arms that would be compared")
    a, b = _mean_by_seed([match.first for match in kept]), _mean_by_seed([match.second for match in kept])
    averaged = _averaged(len(kept), len(matched))
    return _test_equality(a, b, one.within, averaged) if one.within is not None else _test_order(a, b, one, averaged)


@dataclass(frozen=True)
class _Match:
    """The metric by seed of both groups of an expectation, where their other settings are equal."""

    first: Mapping[int, float]
    second: Mapping[int, float]


def _most_data(matched: Sequence[_Match]) -> Sequence[_Match]:
    """The matches to average, which must have all their seeds in common.

    A match with few seeds would remove seeds from the others. So the matches with the most seeds are kept, as many as
    make (matches × common seeds) largest; of equal choices the one with more matches. Empty if no seed is in common.
    """
    ranked = sorted(matched, key=lambda one: min(len(one.first), len(one.second)), reverse=True)

    def size(count: int) -> int:
        seeds = [[set(one.first) for one in ranked[:count]], [set(one.second) for one in ranked[:count]]]
        return count * min(len(set.intersection(*side)) for side in seeds)

    best = max(range(len(ranked), 0, -1), key=size)
    return ranked[:best] if size(best) else []


def _averaged(kept: int, matched: int) -> str:
    """Over how many combinations of the other settings a difference is averaged; empty for one."""
    if matched == 1:
        return ""
    left_out = f" ({matched - kept} left out because seeds are missing there)" if kept < matched else ""
    return f", averaged over {kept} combination{'s' if kept > 1 else ''} of the other settings{left_out}"


def _mean_by_seed(each: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean of several values by seed, for the seeds that all of them have."""
    seeds = set.intersection(*(set(one) for one in each)) if each else set()
    return {seed: statistics.fmean(one[seed] for one in each) for seed in sorted(seeds)}


def _test_order(a: Mapping[int, float], b: Mapping[int, float], one: Expectation, averaged: str) -> _TestResult:
    """Test whether a is larger than b, or smaller."""
    is_bias = parts_of(one.metric) is not None
    value_and_paired = (size_difference if is_bias else difference)(a, b)
    assert value_and_paired is not None
    value, paired = value_and_paired
    shown = _difference_in_words(value, a, b, paired) + averaged
    p = (size_significance if is_bias else significance)(a, b)
    if p is None:
        return _TestResult(f"{shown}; {UNTESTED}", value)
    p_larger = p / 2 if value.mean >= 0 else 1 - p / 2
    p_for, p_against = (p_larger, 1 - p_larger) if one.upward else (1 - p_larger, p_larger)
    return _TestResult(shown, value, p_for, p_against)


def _test_equality(a: Mapping[int, float], b: Mapping[int, float], margin: float, averaged: str) -> _TestResult:
    """Two one-sided tests (Schuirmann 1987): the difference is above −margin, and it is below margin."""
    value_and_paired = difference(a, b)
    assert value_and_paired is not None
    value, paired = value_and_paired
    shown = _difference_in_words(value, a, b, paired) + averaged
    inside = [p for p in (_p_above(a, b, -margin), _p_above(b, a, -margin)) if p is not None]
    outside = [p for p in (_p_above(a, b, margin), _p_above(b, a, margin)) if p is not None]
    if len(inside) < 2 or len(outside) < 2:
        return _TestResult(f"{shown}; {UNTESTED}", value)
    return _TestResult(shown, value, max(inside), min(1.0, 2 * min(outside)))


def _p_above(a: Mapping[int, float], b: Mapping[int, float], margin: float) -> float | None:
    """One-sided p-value of a − b ≤ margin; None where it cannot be tested."""
    shifted = {seed: value - margin for seed, value in a.items()}
    value_and_paired, p = difference(shifted, b), significance(shifted, b)
    assert value_and_paired is not None
    return None if p is None else p / 2 if value_and_paired[0].mean >= 0 else 1 - p / 2


def _test_trend(one: Expectation, path: str, compared: Sequence[Arm]) -> _TestResult:
    try:
        blocks = blocks_of(compared, path, one.metric)
        up, down = (trend(blocks, path, one.metric, way) for way in ("increasing", "decreasing"))
    except InputError as fault:
        return _TestResult(str(fault).removeprefix("--trend "))
    p_grows, p_falls = _p_over_seeds(up), _p_over_seeds(down)
    p_for, p_against = (p_grows, p_falls) if one.upward else (p_falls, p_grows)
    return _TestResult((up if one.upward else down).words, up.change, p_for, p_against)


def _p_over_seeds(tested: Trend) -> float:
    """The p-value with the seed as the independent unit."""
    return tested.p if tested.p_by_seed is None else tested.p_by_seed


def _difference_in_words(value: Interval, a: Mapping[int, float], b: Mapping[int, float], paired: bool) -> str:
    pairs = len(a.keys() & b.keys())
    seeds = f"{pairs} pair{'s' if pairs > 1 else ''} of seeds" if paired else f"{len(a)} and {len(b)} seeds, unpaired"
    limits = "no interval" if value.low is None else f"95% interval {between(value.low, value.high, signed)}"
    return f"difference {signed(value.mean)}, {limits}, {seeds}"
