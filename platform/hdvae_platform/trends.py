"""Trends: does a metric grow with a setting, in blocks of runs that share everything else?

Page's test (1963) where every block has every level, otherwise Jonckheere's and Terpstra's statistic summed over
blocks, which needs no complete ones. Both are about the order within blocks alone, so blocks may lie at different
heights. Under the hypothesis of no trend every order within a block is as likely as any other, and blocks are
independent.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

from hdvae.errors import InputError, nearest
from hdvae_platform.arms import Arm, setting, signed_name, value_of, varied_in
from hdvae_platform.inference import Interval, interval
from hdvae_platform.study import PRESET
from hdvae_platform.tracking import TrackedRun

Direction = Literal["increasing", "decreasing", "two-sided"]
EXACT = 20_000
"""Pairs of values up to which the law of Jonckheere's statistic is computed exactly."""


@dataclass(frozen=True)
class Block:
    """Runs that share a seed and every setting but the one in question.

    Attributes:
        seed: of them.
        values: level → metric.
        runs: MLflow's ids of them.
    """

    seed: int
    values: Mapping[float, float]
    runs: Sequence[str] = ()


@dataclass(frozen=True)
class Order:
    """A test of order: its statistic, and the one-sided p-values of either direction."""

    test: Literal["page", "jonckheere"]
    statistic: float
    increasing: float
    decreasing: float
    exact: bool

    def p(self, direction: Direction) -> float:
        """The p-value; two-sided is twice the smaller one."""
        if direction == "two-sided":
            return min(1.0, 2 * min(self.increasing, self.decreasing))
        return self.increasing if direction == "increasing" else self.decreasing


@dataclass(frozen=True)
class Trend:
    """The answer to a question of trend.

    Attributes:
        path: the setting.
        metric: full name; of a bias that with its sign, in which a trend is looked for.
        direction: that was asked for.
        order: the test.
        levels: of the setting.
        runs: at each level.
        means: of the metric at each level, free of what the blocks differ by.
        fitted: the isotonic fit of the means.
        grows: whether the fit is an increasing one.
        change: at the last level minus at the first, paired within blocks, over seeds; None if no block has both.
        blocks: that entered the test.
        left_out: blocks of a single level, which say nothing.
    """

    path: str
    metric: str
    direction: Direction
    order: Order
    levels: list[float]
    runs: list[int]
    means: list[float]
    fitted: list[float]
    grows: bool
    change: Interval | None
    blocks: list[Block]
    left_out: int

    @property
    def p(self) -> float:
        """The p-value of the direction that was asked for."""
        return self.order.p(self.direction)

    @property
    def words(self) -> str:
        """The test in words."""
        name = "Page's L" if self.order.test == "page" else "Jonckheere's J"
        sides = "two-sided" if self.direction == "two-sided" else f"one-sided, {self.direction}"
        law = "exact" if self.order.exact else "asymptotic"
        blocks, seeds = len(self.blocks), len({block.seed for block in self.blocks})
        counted = f"{blocks} block{'s' if blocks > 1 else ''} of {seeds} seed{'s' if seeds > 1 else ''}"
        return f"{name} = {self.order.statistic:g}, p = {self.p:.2g} ({law}, {sides}), {counted}"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        tested = {"test": self.order.test, "statistic": self.order.statistic, "p": self.p, "exact": self.order.exact}
        kept = ("path", "metric", "direction", "levels", "runs", "means", "fitted", "left_out")
        counts = {"blocks": len(self.blocks), "seeds": len({block.seed for block in self.blocks})}
        change = None if self.change is None else vars(self.change)
        return {**{key: getattr(self, key) for key in kept}, **tested, **counts, "change": change}


def trend(blocks: Sequence[Block], path: str, metric: str, direction: Direction = "two-sided") -> Trend:
    """Test for a trend, and fit it.

    Args:
        blocks: the runs.
        path: of the setting, for the reader.
        metric: full name.
        direction: of the alternative.

    Raises:
        InputError: no block has two levels, or the blocks do not connect the levels.
    """
    telling = [block for block in blocks if len(block.values) > 1]
    if not telling:
        raise InputError(f"--trend {path}: no two runs differ by it alone (in {metric})")
    order = ordered([[block.values[level] for level in sorted(block.values)] for block in telling])
    levels = sorted({level for block in telling for level in block.values})
    counts = Counter(level for block in telling for level in block.values)
    means = _adjusted_means(telling, levels, path)
    grows = direction == "increasing" or (direction == "two-sided" and order.increasing <= order.decreasing)
    weights = [counts[level] for level in levels]
    fitted = optimize.isotonic_regression(means, weights=weights, increasing=grows).x
    return Trend(
        path=path,
        metric=signed_name(metric),
        direction=direction,
        order=order,
        levels=levels,
        runs=weights,
        means=means.tolist(),
        fitted=fitted.tolist(),
        grows=grows,
        change=_change(telling, levels),
        blocks=telling,
        left_out=len(blocks) - len(telling),
    )


def ordered(rows: Sequence[Sequence[float]]) -> Order:
    """Page's test where SciPy's applies (two or more complete rows of three or more, no ties), else Jonckheere's.

    Args:
        rows: the values of each block in the order of their levels.
    """
    tied = any(len(set(row)) < len(row) for row in rows)
    if len(rows) < 2 or len({len(row) for row in rows}) > 1 or len(rows[0]) < 3 or tied:
        return jonckheere(rows)
    up = stats.page_trend_test(np.array(rows))
    down = stats.page_trend_test(np.array(rows), predicted_ranks=np.arange(len(rows[0]), 0, -1))
    return Order("page", float(up.statistic), float(up.pvalue), float(down.pvalue), up.method == "exact")


def jonckheere(rows: Sequence[Sequence[float]]) -> Order:
    """Jonckheere's and Terpstra's statistic within blocks: pairs in increasing order, ties half (Jonckheere 1954).

    Without ties its law is that of a sum of uniform numbers on 0 … m, for m below the size of each row (the number of
    inversions of a random permutation), convolved up to `EXACT` pairs. Otherwise it is the normal one with the variance
    of Kendall's S under ties (Kendall 1970, eq. 4.3) and a correction for continuity.

    Args:
        rows: the values of each block in the order of their levels.
    """
    total = sum(math.comb(len(row), 2) for row in rows)
    statistic = sum((b > a) + (b == a) / 2 for row in rows for a, b in itertools.combinations(row, 2))
    tied = any(len(set(row)) < len(row) for row in rows)
    if tied or total > EXACT:
        deviation = math.sqrt(sum(map(_variance, rows)))
        if deviation == 0:
            return Order("jonckheere", statistic, 1.0, 1.0, False)
        up, down = ((sign * (statistic - total / 2) - 0.5) / deviation for sign in (1, -1))
        return Order("jonckheere", statistic, float(stats.norm.sf(up)), float(stats.norm.sf(down)), False)
    law = np.ones(1)
    for m in (m for row in rows for m in range(1, len(row))):
        law = np.convolve(law, np.full(m + 1, 1 / (m + 1)))
    count = int(statistic)
    return Order("jonckheere", statistic, float(law[count:].sum()), float(law[: count + 1].sum()), True)


def _variance(row: Sequence[float]) -> float:
    def term(n: int) -> int:
        return n * (n - 1) * (2 * n + 5)

    return (term(len(row)) - sum(term(count) for count in Counter(row).values())) / 72


def _adjusted_means(blocks: Sequence[Block], levels: Sequence[float], path: str) -> np.ndarray:
    """Least-squares means of the levels in a model of levels plus blocks; the plain means where blocks are complete."""
    place = {level: i for i, level in enumerate(levels)}
    matrix, right = np.zeros((len(levels), len(levels))), np.zeros(len(levels))
    total, weights = 0.0, np.zeros(len(levels))
    for block in blocks:
        at, values = [place[level] for level in block.values], np.array(list(block.values.values()))
        matrix[at, at] += 1
        matrix[np.ix_(at, at)] -= 1 / len(at)
        right[at] += values - values.mean()
        weights[at] += 1
        total += values.sum()
    found, _, rank, _ = np.linalg.lstsq(matrix, right, rcond=1e-9)
    if rank < len(levels) - 1:
        raise InputError(f"--trend {path}: its levels are never met by the same blocks, so they cannot be compared")
    means: np.ndarray = found + (total - weights @ found) / weights.sum()
    return means


def _change(blocks: Sequence[Block], levels: Sequence[float]) -> Interval | None:
    by_seed: dict[int, list[float]] = {}
    for block in blocks:
        if levels[0] in block.values and levels[-1] in block.values:
            by_seed.setdefault(block.seed, []).append(block.values[levels[-1]] - block.values[levels[0]])
    return interval([statistics.fmean(apart) for apart in by_seed.values()]) if by_seed else None


def blocks_of(compared: Sequence[Arm], path: str, metric: str) -> list[Block]:
    """The runs of arms as blocks.

    Args:
        compared: arms by everything that was varied.
        path: of the setting; with stars, as in `model.layers.*.variables`, the sum over all that fit.
        metric: full name; a bias enters with its sign, since |δ| grows with the noise alone.

    Raises:
        InputError: the setting is unknown, no number, or the same in all runs.
    """
    _check_known(compared, path)
    found: dict[str, list[tuple[TrackedRun, float, float]]] = {}
    for arm in compared:
        for run, value in zip(arm.runs, arm.each_signed(metric), strict=True):
            level = _level(run, path)
            if value is not None and level is not None:
                key = json.dumps([arm.arm.get("study"), run.tags["hdvae.seed"], _rest(run, path)], sort_keys=True)
                found.setdefault(key, []).append((run, level, value))
    levels = sorted({level for same in found.values() for _, level, _ in same})
    if len(levels) < 2:
        raise InputError(
            f"--trend {path}: every run has {'none' if not levels else f'{levels[0]:g}'}: there is no trend"
        )
    return [_block(same) for same in found.values()]


def _block(same: Sequence[tuple[TrackedRun, float, float]]) -> Block:
    """Runs, each with its level and metric, as a block."""
    values: dict[float, list[float]] = {}
    for _, level, value in same:
        values.setdefault(level, []).append(value)
    means = {level: statistics.fmean(each) for level, each in values.items()}
    runs = [run for run, _, _ in same]
    return Block(int(runs[0].tags["hdvae.seed"]), means, [run.run_id for run in runs])


def entered(compared: Sequence[Arm], trends: Sequence[Trend]) -> list[Arm]:
    """The arms with those of their runs that entered a trend; and of the same studies the arms that have none yet."""
    ids = {run_id for one in trends for block in one.blocks for run_id in block.runs}
    kept = [replace(arm, runs=[run for run in arm.runs if run.run_id in ids]) for arm in compared]
    studies = {arm.arm.get("study") for arm in kept if arm.runs}
    return [
        part
        for arm, part in zip(compared, kept, strict=True)
        if part.runs or (not arm.runs and arm.arm.get("study") in studies)
    ]


def _pattern(path: str) -> str:
    return re.escape(path).replace(r"\*", r"[^.]+")


def _check_known(compared: Sequence[Arm], path: str) -> None:
    known = {one for arm in compared for run in arm.runs for one in (*run.params, *varied_in(run))}
    if not any(re.fullmatch(_pattern(path), one) for one in known):
        raise InputError(f"--trend {path}: no such setting{nearest(path, known)}")


def _level(run: TrackedRun, path: str) -> float | None:
    """The setting, or the sum of those that fit; None where the run has none."""
    fitting = [one for one in {*run.params, *varied_in(run)} if re.fullmatch(_pattern(path), one)]
    if not fitting:
        return None
    values = [setting(run, one) for one in fitting]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(
                f"--trend {path}: {json.dumps(value)} is no number, and a trend needs numbers: choose runs with --where"
            )
    return float(sum(values))


def _rest(run: TrackedRun, path: str) -> dict[str, Any]:
    """What was varied beside the setting. Where that is part of a varied value, the value without it.

    A varied preset is only a name: every setting of the run, beside the one in question, stands for it.
    """
    pattern, parts, varied = _pattern(path), path.split("."), varied_in(run)
    rest = {}
    if PRESET in varied:
        rest = {one: value_of(text) for one, text in run.params.items() if one not in ("seed", PRESET)}
        rest = {one: value for one, value in rest.items() if not re.fullmatch(pattern, one)}
    for one, value in varied.items():
        if one == PRESET or re.fullmatch(pattern, one):
            continue
        above = one.split(".")
        within = len(above) < len(parts) and re.fullmatch(_pattern(".".join(parts[: len(above)])), one)
        rest[one] = _without(value, parts[-1]) if within else value
    return rest


def _without(value: Any, key: str) -> Any:
    """The value without what stands under a key anywhere in it."""
    if isinstance(value, dict):
        return {name: _without(inner, key) for name, inner in value.items() if name != key}
    return [_without(inner, key) for inner in value] if isinstance(value, list) else value
