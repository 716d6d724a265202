"""Whether the data support what a study file expects: each expectation is tested over seeds, in both directions.

The test is two-sided. An expectation is supported if the difference is significant in the expected direction,
contradicted if it is significant in the other one, and inconclusive otherwise. The level of the test depends on the
number of the look (`analysis.looks`) and on Holm's correction over all expectations of the study. The interval is that
of the test, so that it decides alone.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import Arm, with_runs
from hdvae_platform.analysis.blocks import blocks_of
from hdvae_platform.analysis.inference import (
    LEVEL,
    Contrast,
    Interval,
    MeanDifference,
    difference,
    holm_levels,
    pairs,
    size_difference,
)
from hdvae_platform.analysis.labels import expectation_in_words, label
from hdvae_platform.analysis.looks import Look, RunKey
from hdvae_platform.analysis.metric_names import parts_of
from hdvae_platform.analysis.trends import Trend, trend
from hdvae_platform.display.text import between, number, percent, signed
from hdvae_platform.study.expectation import Expectation, fitting, sides

FEWEST_SEEDS = 3
"""The fewest pairs of seeds, or seeds of each arm, of a verdict: the spread of two is hardly known."""
Answer = Literal["supported", "contradicted", "inconclusive"]
LookAt = Callable[[Expectation, Collection[RunKey]], Look]
"""Says which look at an expectation a test of these runs is: `Looks.look`."""


@dataclass(frozen=True)
class Verdict:
    """The verdict of the data on one expectation.

    Attributes:
        expected: the expectation in words.
        answer: whether the data support it.
        why: the numbers that the answer rests on, or why it could not be tested.
        difference: the difference with the interval of the test; None for a trend, which is tested by ranks, and
            without a difference.
        p: two-sided p-value of the test; None if it was not tested.
        level: the level of the test and of the interval: the answer is not inconclusive exactly if p is below it.
        look: the look that this is; None if it was not tested.
    """

    expected: str
    answer: Answer
    why: str
    difference: Interval | None = None
    p: float | None = None
    level: float | None = None
    look: Look | None = None

    @property
    def numbers(self) -> str:
        """The numbers that the answer rests on, and the look."""
        if self.p is None or self.level is None or self.look is None:
            return self.why
        unknown = "" if self.look.recorded else " (not recorded: the storage takes no files, so it will not count)"
        return f"{self.why}; p = {self.p:.2g}, look {self.look.number}{unknown}, at level {percent(self.level)}"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        shown = None if self.difference is None else vars(self.difference)
        place, recorded = (None, None) if self.look is None else (self.look.number, self.look.recorded)
        return {**vars(self), "difference": shown, "look": place, "recorded": recorded}


@dataclass(frozen=True)
class _Evidence:
    """What the data say of one expectation, before its level is known.

    Attributes:
        why: the numbers besides the difference, or why it could not be tested.
        contrast: the difference with its law; None for a trend.
        p: two-sided p-value; None if it was not tested.
        as_expected: whether the estimate is on the expected side.
        runs: the runs that the test used.
    """

    why: str
    contrast: Contrast | None = None
    p: float | None = None
    as_expected: bool = False
    runs: AbstractSet[RunKey] = frozenset()


def verdicts(expected: Sequence[Expectation], compared: Sequence[Arm], look_at: LookAt) -> list[Verdict]:
    """The verdicts of a study's complete runs on its expectations.

    Args:
        expected: the expectations of the study file.
        compared: the arms, grouped by everything that was varied.
        look_at: numbers the looks; called for each expectation that is tested.
    """
    found = [_evidence(one, with_runs(compared)) for one in expected]
    looks = [None if one.p is None else look_at(what, one.runs) for what, one in zip(expected, found, strict=True)]
    levels = levels_of([one.p for one in found], looks)
    return [_verdict(*each) for each in zip(expected, found, looks, levels, strict=True)]


def levels_of(p_values: Sequence[float | None], looks: Sequence[Look | None]) -> list[float | None]:
    """The level of each test: by Holm's method over all expectations, tested or not, of the p-values times their price.

    At every look this is at least as strict as Holm's method for the smallest of the priced p-values of all looks, so
    the probability of any false answer at any look is at most `LEVEL`.

    Args:
        p_values: two-sided; None for what is not tested.
        looks: the look of each test.

    >>> levels_of([0.001, None], [Look(2), None])
    [0.00416..., None]
    """
    priced = [None if p is None or at is None else p * at.price for p, at in zip(p_values, looks, strict=True)]
    levels = holm_levels(priced, LEVEL, hypotheses=len(p_values))
    return [None if level is None or at is None else level / at.price for level, at in zip(levels, looks, strict=True)]


def _verdict(one: Expectation, found: _Evidence, look: Look | None, level: float | None) -> Verdict:
    expected = expectation_in_words(one)
    shown = None if found.contrast is None else found.contrast.interval(LEVEL if level is None else level)
    if found.p is None or level is None:
        # Without a test there is no interval of one.
        return Verdict(expected, "inconclusive", found.why, shown and Interval(shown.mean, None, None))
    significant = found.p < level
    answer: Answer = "inconclusive" if not significant else "supported" if found.as_expected else "contradicted"
    why = found.why
    if shown is not None:
        limits = f"{percent(1 - level)} interval {between(shown.low, shown.high, signed)}"
        why = f"difference {signed(shown.mean)}, {limits}, {found.why}"
    return Verdict(expected, answer, why, shown, found.p, level, look)


def overall(each: Sequence[Verdict]) -> Answer:
    """The verdict on a claim: supported if all expectations are supported, contradicted if any is contradicted."""
    answers = {verdict.answer for verdict in each}
    return "contradicted" if "contradicted" in answers else "supported" if answers == {"supported"} else "inconclusive"


def _evidence(one: Expectation, compared: Sequence[Arm]) -> _Evidence:
    """Test one expectation, apart from the level."""
    if one.trend is not None:
        return _of_trend(one, one.trend, compared)
    assert one.pair is not None
    settings = [arm.settings for arm in compared]
    groups = [fitting(settings, group) for group in one.pair]
    for group, places in zip(one.pair, groups, strict=True):
        if not any(compared[place].by_seed(one.metric) for place in places):
            return _Evidence(f"no complete run with {label(group)} has {one.metric}")
    both = set(groups[0]) & set(groups[1])
    if both:
        return _Evidence(f"the arm with {label(settings[min(both)])} belongs to both groups")
    matched = [
        _Match.of(one.metric, *([compared[place] for place in places] for places in side))
        for side in sides(*one.pair, settings)
    ]
    if not matched:
        return _Evidence("no arm of the one group has the same other settings as an arm of the other group")
    kept = _most_data(matched)
    if not kept:
        return _Evidence(f"no seed has {one.metric} in all arms that would be compared")
    a, b = _mean_by_seed([match.first for match in kept]), _mean_by_seed([match.second for match in kept])
    return _of_groups(one, a, b, _averaged(len(kept), len(matched)), [match.arms for match in kept])


@dataclass(frozen=True)
class _Match:
    """The metric by seed of both groups of an expectation, where their other settings are equal."""

    first: Mapping[int, float]
    second: Mapping[int, float]
    arms: tuple[Sequence[Arm], Sequence[Arm]]

    @staticmethod
    def of(metric: str, first: Sequence[Arm], second: Sequence[Arm]) -> _Match:
        """The match of the arms of both groups; a bias has its sign."""
        a, b = (_mean_by_seed([arm.signed_by_seed(metric) for arm in arms]) for arms in (first, second))
        return _Match(a, b, (first, second))


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


def _of_groups(
    one: Expectation,
    a: Mapping[int, float],
    b: Mapping[int, float],
    averaged: str,
    arms: Sequence[tuple[Sequence[Arm], Sequence[Arm]]],
) -> _Evidence:
    """The evidence on two groups.

    Args:
        one: the expectation.
        a: the metric of the first group by seed.
        b: that of the second group.
        averaged: over how many other settings both are averaged, in words.
        arms: the arms of both groups.
    """
    apart = difference(a, b)
    sizes = size_difference(a, b) if parts_of(one.metric) is not None and one.within is None else apart
    assert apart is not None
    assert sizes is not None
    shared = set(pairs(a, b))
    used = (shared or set(a), shared or set(b))
    counted = (
        f"{len(shared)} pair{'s' if len(shared) > 1 else ''} of seeds" if shared else f"{len(a)} and {len(b)} seeds"
    )
    counted += ("" if shared else ", unpaired") + averaged
    if min(map(len, used)) < FEWEST_SEEDS:
        listed = "; ".join(_seed_in_words(seed, a, b) for seed in sorted(used[0] | used[1]))
        few = f"{counted} ({listed}); a verdict needs {FEWEST_SEEDS} {'pairs' if shared else 'seeds in each group'}"
        return _Evidence(f"difference {signed(sizes.mean)}, {few}", sizes)
    if sizes.p is None:
        same = f"{counted}; not tested: it is the same for all seeds"
        return _Evidence(f"difference {signed(sizes.mean)}, {same}", sizes)
    runs = {
        (run.trial, run.seed)
        for both in arms
        for group, seeds in zip(both, used, strict=True)
        for arm in group
        for run in arm.runs
        if run.seed in seeds
    }
    if one.within is not None:
        p, as_expected = _equality(apart, one.within)
        return _Evidence(counted, apart, p, as_expected, runs)
    return _Evidence(counted, sizes, sizes.p, (sizes.mean > 0) == one.upward, runs)


def _seed_in_words(seed: int, a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """The metric of both groups at a seed."""
    return f"seed {seed}: " + " against ".join(number(one[seed]) if seed in one else "—" for one in (a, b))


def _equality(apart: MeanDifference, margin: float) -> tuple[float, bool]:
    """Two one-sided tests (Schuirmann 1987) of a difference within ±margin, and of one beyond it; p-value, and which.

    The p-value is twice that of a one-sided test, so that it is below a level exactly if the interval of that level
    lies within ±margin, or beyond it.
    """
    above = [apart.p_above(-margin), apart.p_above(margin)]
    over, beyond = (1.0 if p is None else p for p in above)
    inside, outside = 2 * max(over, 1 - beyond), 2 * min(beyond, 1 - over)
    return min(inside, outside, 1.0), inside <= outside


def _of_trend(one: Expectation, path: str, compared: Sequence[Arm]) -> _Evidence:
    try:
        blocks = blocks_of(compared, path, one.metric)
        both, up, down = (trend(blocks, path, one.metric, way) for way in ("two-sided", "increasing", "decreasing"))
    except InputError as fault:
        return _Evidence(str(fault).removeprefix("--trend "))
    seeds = sorted({block.seed for block in both.blocks})
    if len(seeds) < FEWEST_SEEDS:
        listed = ", ".join(map(str, seeds))
        return _Evidence(f"{both.words} (seed{'s' if len(seeds) > 1 else ''} {listed}); a verdict needs {FEWEST_SEEDS}")
    ids = {run_id for block in both.blocks for same in block.runs.values() for run_id in same}
    runs = {(run.trial, run.seed) for arm in compared for run in arm.runs if run.run_id in ids}
    p = min(1.0, 2 * min(_p_over_seeds(up), _p_over_seeds(down)))
    grows = _p_over_seeds(up) <= _p_over_seeds(down)
    return _Evidence(both.words, None, p, grows == one.upward, runs)


def _p_over_seeds(tested: Trend) -> float:
    """The p-value with the seed as the independent unit."""
    return tested.p if tested.p_by_seed is None else tested.p_by_seed
