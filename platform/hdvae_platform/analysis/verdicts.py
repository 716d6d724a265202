"""Whether the data support what a study file expects: each expectation tested over seeds, both ways.

An expectation is supported where its one-sided p-value, adjusted by Holm's method for all expectations of the study, is
below `ALPHA`; contradicted where that of its opposite is; else it is open, which is no proof of anything.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import Arm, label, parts_of, with_runs
from hdvae_platform.analysis.inference import (
    Interval,
    difference,
    holm,
    significance,
    size_difference,
    size_significance,
)
from hdvae_platform.analysis.trends import Trend, blocks_of, trend
from hdvae_platform.display.text import between, signed
from hdvae_platform.study.expectation import Expectation, fitting, sides

ALPHA = 0.05
UNTESTED = "it takes two seeds in each arm, and values that differ"
Answer = Literal["supported", "contradicted", "open"]


@dataclass(frozen=True)
class Verdict:
    """What the data say of an expectation.

    Attributes:
        expected: it, in words.
        answer: whether they support it.
        why: the numbers behind that; of an open one, what is missing.
        found: the difference, or the change from the first level of a trend to the last, over seeds; None without one.
        p_for: adjusted p-value of "it is not so"; None where nothing could be tested.
        p_against: of "the opposite is not so".
    """

    expected: str
    answer: Answer
    why: str
    found: Interval | None
    p_for: float | None
    p_against: float | None

    @property
    def numbers(self) -> str:
        """What the answer rests on."""
        if self.p_for is None or self.p_against is None:
            return self.why
        return f"{self.why}; adjusted p = {self.p_for:.2g} for it, {self.p_against:.2g} for its opposite"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        found = None if self.found is None else vars(self.found)
        return {**{key: value for key, value in vars(self).items() if key != "found"}, "difference": found}


@dataclass(frozen=True)
class _Tested:
    why: str
    found: Interval | None = None
    p_for: float | None = None
    p_against: float | None = None


def verdicts(expected: Sequence[Expectation], compared: Sequence[Arm]) -> list[Verdict]:
    """What the complete runs of a study's arms say of its expectations.

    Args:
        expected: by the study file.
        compared: the arms, by everything that was varied.
    """
    tested = [_tested(one, with_runs(compared)) for one in expected]
    adjusted = zip(holm([one.p_for for one in tested]), holm([one.p_against for one in tested]), strict=True)
    return [
        Verdict(in_words(one), _answer(p_for, p_against), found.why, found.found, p_for, p_against)
        for one, found, (p_for, p_against) in zip(expected, tested, adjusted, strict=True)
    ]


def overall(found: Sequence[Verdict]) -> Answer:
    """Of a claim that expects several things: supported with all of them, contradicted with any."""
    answers = {one.answer for one in found}
    return "contradicted" if "contradicted" in answers else "supported" if answers == {"supported"} else "open"


def in_words(one: Expectation) -> str:
    """An expectation in words.

    >>> in_words(Expectation(metric="valid/elbo", higher={"model.width": 8}, than={"model.width": 4}))
    'valid/elbo is higher with width 8 than with width 4'
    """
    if one.trend is not None:
        return f"{one.metric} {'grows' if one.upward else 'falls'} with {one.trend}"
    assert one.pair is not None
    first, second = (f"with {label(group)}" for group in one.pair)
    if one.within is not None:
        return f"{one.metric} {first} is within {one.within:g} of that {second}"
    return f"{one.metric} is {'higher' if one.upward else 'lower'} {first} than {second}"


def _answer(p_for: float | None, p_against: float | None) -> Answer:
    if p_for is not None and p_for < ALPHA:
        return "supported"
    return "contradicted" if p_against is not None and p_against < ALPHA else "open"


def _tested(one: Expectation, compared: Sequence[Arm]) -> _Tested:
    if one.trend is not None:
        return _of_trend(one, one.trend, compared)
    assert one.pair is not None
    settings = [arm.arm for arm in compared]
    groups = [fitting(settings, group) for group in one.pair]
    for group, places in zip(one.pair, groups, strict=True):
        if not any(compared[place].by_seed(one.metric) for place in places):
            return _Tested(f"no complete run with {label(group)} has {one.metric}")
    both = set(groups[0]) & set(groups[1])
    if both:
        return _Tested(f"{label(settings[min(both)])} is on both sides")
    found = [
        _Choice(*(_means([compared[place].signed_by_seed(one.metric) for place in places]) for places in side))
        for side in sides(*one.pair, settings)
    ]
    if not found:
        return _Tested("no two arms of these groups share their other settings")
    kept = _together(found)
    if not kept:
        return _Tested(f"no seed has {one.metric} in every arm of a side")
    a, b = _means([choice.first for choice in kept]), _means([choice.second for choice in kept])
    over = _over(len(kept), len(found))
    return _within(a, b, one.within, over) if one.within is not None else _apart(a, b, one, over)


@dataclass(frozen=True)
class _Choice:
    """The metric of both sides by seed, at one choice of other settings."""

    first: Mapping[int, float]
    second: Mapping[int, float]


def _together(found: Sequence[_Choice]) -> Sequence[_Choice]:
    """The choices that are averaged: one that lacks seeds would take them from all others.

    So many of those with the most seeds as make choices times seeds largest; the more choices of equal ones.
    """
    ranked = sorted(found, key=lambda one: min(len(one.first), len(one.second)), reverse=True)

    def held(count: int) -> int:
        seeds = [[set(one.first) for one in ranked[:count]], [set(one.second) for one in ranked[:count]]]
        return count * min(len(set.intersection(*side)) for side in seeds)

    most = max(range(len(ranked), 0, -1), key=held)
    return ranked[:most] if held(most) else []


def _over(kept: int, found: int) -> str:
    """What a difference is the mean of, where that is not one pair of arms."""
    if found == 1:
        return ""
    left = f" ({found - kept} left out for lack of seeds)" if kept < found else ""
    return f", over {kept} choice{'s' if kept > 1 else ''} of the other settings{left}"


def _means(each: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """By seed, the mean over several of the seeds that all of them have."""
    seeds = set.intersection(*(set(one) for one in each)) if each else set()
    return {seed: statistics.fmean(one[seed] for one in each) for seed in sorted(seeds)}


def _apart(a: Mapping[int, float], b: Mapping[int, float], one: Expectation, over: str) -> _Tested:
    is_distance = parts_of(one.metric) is not None
    compared = (size_difference if is_distance else difference)(a, b)
    assert compared is not None
    found, is_paired = compared
    shown = _shown(found, a, b, is_paired) + over
    p = (size_significance if is_distance else significance)(a, b)
    if p is None:
        return _Tested(f"{shown}: {UNTESTED}", found)
    above = p / 2 if found.mean >= 0 else 1 - p / 2
    p_for, p_against = (above, 1 - above) if one.upward else (1 - above, above)
    return _Tested(shown, found, p_for, p_against)


def _within(a: Mapping[int, float], b: Mapping[int, float], margin: float, over: str) -> _Tested:
    """Two one-sided tests (Schuirmann 1987): the difference is above −margin, and it is below it."""
    compared = difference(a, b)
    assert compared is not None
    found, is_paired = compared
    shown = _shown(found, a, b, is_paired) + over
    inside = [p for p in (_above(a, b, -margin), _above(b, a, -margin)) if p is not None]
    beyond = [p for p in (_above(a, b, margin), _above(b, a, margin)) if p is not None]
    if len(inside) < 2 or len(beyond) < 2:
        return _Tested(f"{shown}: {UNTESTED}", found)
    return _Tested(shown, found, max(inside), min(1.0, 2 * min(beyond)))


def _above(a: Mapping[int, float], b: Mapping[int, float], shift: float) -> float | None:
    """One-sided p-value of a − b ≤ shift; None where it cannot be tested."""
    moved = {seed: value - shift for seed, value in a.items()}
    compared, p = difference(moved, b), significance(moved, b)
    assert compared is not None
    return None if p is None else p / 2 if compared[0].mean >= 0 else 1 - p / 2


def _of_trend(one: Expectation, path: str, compared: Sequence[Arm]) -> _Tested:
    try:
        blocks = blocks_of(compared, path, one.metric)
        up, down = (trend(blocks, path, one.metric, way) for way in ("increasing", "decreasing"))
    except InputError as fault:
        return _Tested(str(fault).removeprefix("--trend "))
    grows, falls = _by_seed(up), _by_seed(down)
    p_for, p_against = (grows, falls) if one.upward else (falls, grows)
    return _Tested((up if one.upward else down).words, up.change, p_for, p_against)


def _by_seed(found: Trend) -> float:
    """The p-value with the seed as the independent unit."""
    return found.p if found.by_seed is None else found.by_seed


def _shown(found: Interval, a: Mapping[int, float], b: Mapping[int, float], is_paired: bool) -> str:
    pairs = len(a.keys() & b.keys())
    seeds = f"{pairs} pair{'s' if pairs > 1 else ''} of seeds" if is_paired else f"{len(a)} and {len(b)} seeds"
    return f"difference {signed(found.mean)}, 95% over seeds {between(found.low, found.high, signed)}, {seeds}"
