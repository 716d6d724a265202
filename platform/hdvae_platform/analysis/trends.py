"""Trends: does a metric grow with a setting, in blocks of runs that share everything else?

Page's test (1963) where every block has every level, otherwise Jonckheere's and Terpstra's statistic summed over
blocks, which needs no complete ones. Both are about the order within blocks alone, so blocks may lie at different
heights. Under the hypothesis of no trend every order within a block is as likely as any other, and blocks are
independent.

Blocks of one seed may not be: what a seed does at a level, the order of the data say, may be common to them. Where a
seed has several blocks there is a second p-value that does not count on it, of the same statistic under permutations of
the levels that are the same in all blocks of a seed.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy import optimize, stats

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.arms import Arm, setting, signed_name, value_of, varied_in
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.study.space import PRESET, fits
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Param, Tag

Direction = Literal["increasing", "decreasing", "two-sided"]
EXACT = 20_000
"""Pairs of values up to which the law of Jonckheere's statistic is computed exactly."""
ALL = 5040
"""Orders of the levels up to which all are looked at, for each seed; of more, as many are drawn."""


@dataclass(frozen=True)
class Block:
    """Runs that share a seed and every setting but the one in question.

    Attributes:
        seed: of them.
        values: level → metric, the mean where several runs have the level.
        runs: level → MLflow's ids of its runs.
    """

    seed: int
    values: Mapping[float, float]
    runs: Mapping[float, Sequence[str]] = field(default_factory=dict)

    @property
    def row(self) -> list[float]:
        """The values in the order of their levels."""
        return [self.values[level] for level in sorted(self.values)]


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
        by_seed: p-value with whole seeds as units; None where each seed has one block.
        levels: of the setting.
        runs: how many at each level.
        pooled: levels at which a block has the mean of several settings.
        means: of the metric at each level, free of what the blocks differ by.
        fitted: the isotonic fit of the means.
        grows: whether the fit is an increasing one.
        change: at the last level minus at the first, paired within blocks, over seeds; None if no block has both.
        blocks: that entered the test.
        left_out: blocks of a single level, which say nothing.
        constant: blocks of one value at all levels, as of a bias that is 0 by definition: they have no order.
    """

    path: str
    metric: str
    direction: Direction
    order: Order
    by_seed: float | None
    levels: list[float]
    runs: list[int]
    pooled: list[float]
    means: list[float]
    fitted: list[float]
    grows: bool
    change: Interval | None
    blocks: list[Block]
    left_out: int
    constant: int

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
        said = f"{name} = {self.order.statistic:g}, p = {self.p:.2g} ({law}, {sides}), {counted}"
        return said if self.by_seed is None else f"{said}; with whole seeds as units p = {self.by_seed:.2g}"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        tested = {"test": self.order.test, "statistic": self.order.statistic, "p": self.p, "exact": self.order.exact}
        kept = ("path", "metric", "direction", "levels", "runs", "means", "fitted", "left_out", "constant")
        counts = {"blocks": len(self.blocks), "seeds": len({block.seed for block in self.blocks})}
        change = None if self.change is None else vars(self.change)
        return {
            **{key: getattr(self, key) for key in kept},
            **tested,
            "p_by_seed": self.by_seed,
            **counts,
            "change": change,
        }


def trend(blocks: Sequence[Block], path: str, metric: str, direction: Direction = "two-sided") -> Trend:
    """Test for a trend, and fit it.

    Args:
        blocks: the runs.
        path: of the setting, for the reader.
        metric: full name.
        direction: of the alternative.

    Raises:
        InputError: no block has two levels, or the blocks do not connect the levels, or they have no order.
    """
    several = [block for block in blocks if len(block.values) > 1]
    if not several:
        raise InputError(f"--trend {path}: no two runs differ by it alone (in {metric})")
    telling = [block for block in several if len(set(block.values.values())) > 1]
    if not telling:
        raise InputError(f"--trend {path}: {metric} is the same at every level, so there is no order to test")
    order = ordered([block.row for block in telling])
    levels = sorted({level for block in telling for level in block.values})
    counts = Counter(level for block in telling for level in block.values)
    runs = Counter(level for block in telling for level, same in block.runs.items() for _ in same)
    means = _adjusted_means(telling, levels, path)
    grows = direction == "increasing" or (direction == "two-sided" and order.increasing <= order.decreasing)
    weights = [counts[level] for level in levels]
    fitted = optimize.isotonic_regression(means, weights=weights, increasing=grows).x
    return Trend(
        path=path,
        metric=signed_name(metric),
        direction=direction,
        order=order,
        by_seed=permuted(telling, direction) if len({block.seed for block in telling}) < len(telling) else None,
        levels=levels,
        runs=[runs[level] for level in levels],
        pooled=sorted({level for block in telling for level, same in block.runs.items() if len(same) > 1}),
        means=means.tolist(),
        fitted=fitted.tolist(),
        grows=grows,
        change=_change(telling, levels),
        blocks=telling,
        left_out=len(blocks) - len(several),
        constant=len(several) - len(telling),
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


def permuted(blocks: Sequence[Block], direction: Direction) -> float:
    """The p-value of Jonckheere's statistic where the levels of all blocks of a seed are permuted together.

    The law of each seed's part is taken over all orders of its levels, or as many drawn ones, and the parts are
    independent: their laws are convolved, on halves.

    Args:
        blocks: with several levels.
        direction: of the alternative.
    """
    by_seed: dict[int, list[Block]] = {}
    for block in blocks:
        by_seed.setdefault(block.seed, []).append(block)
    law, observed = np.ones(1), 0
    for same in by_seed.values():
        found = _permuted(same)
        observed += int(found[0])
        law = np.convolve(law, np.bincount(found) / len(found))
    up, down = float(law[observed:].sum()), float(law[: observed + 1].sum())
    p = min(1.0, 2 * min(up, down)) if direction == "two-sided" else up if direction == "increasing" else down
    return min(1.0, p)


def _permuted(blocks: Sequence[Block]) -> np.ndarray:
    """Twice the statistic of a seed's blocks: first as it is, then under other permutations of their levels."""
    levels = sorted({level for block in blocks for level in block.values})
    count, place = len(levels), {level: i for i, level in enumerate(levels)}
    rising = np.zeros((count, count), dtype=np.int64)
    for block in blocks:
        for (a, before), (b, after) in itertools.permutations(block.values.items(), 2):
            rising[place[a], place[b]] += 2 * (after > before) + (after == before)
    if math.factorial(count) <= ALL:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        random = np.random.default_rng(0)
        orders = np.array([range(count), *(random.permutation(count) for _ in range(ALL - 1))])
    found: np.ndarray = sum(rising[orders[:, i], orders[:, j]] for i, j in itertools.combinations(range(count), 2))
    return found


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
                key = json.dumps([arm.arm.get("study"), run.tags[Tag.SEED], _rest(run, path)], sort_keys=True)
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
    runs = {level: [run.run_id for run, at, _ in same if at == level] for level in values}
    return Block(same[0][0].seed, means, runs)


def entered(compared: Sequence[Arm], trends: Sequence[Trend]) -> list[Arm]:
    """The arms with those of their runs that entered a trend; and of the same studies the arms that have none yet."""
    ids = {run_id for one in trends for block in one.blocks for same in block.runs.values() for run_id in same}
    kept = [replace(arm, runs=[run for run in arm.runs if run.run_id in ids]) for arm in compared]
    studies = {arm.arm.get("study") for arm in kept if arm.runs}
    return [
        part
        for arm, part in zip(compared, kept, strict=True)
        if part.runs or (not arm.runs and arm.arm.get("study") in studies)
    ]


def _check_known(compared: Sequence[Arm], path: str) -> None:
    known = {one for arm in compared for run in arm.runs for one in (*run.params, *varied_in(run))}
    if not any(fits(one, path) for one in known):
        raise InputError(f"--trend {path}: no such setting{nearest(path, known)}")


def _level(run: TrackedRun, path: str) -> float | None:
    """The setting, or the sum of those that fit; None where the run has none."""
    fitting = [one for one in {*run.params, *varied_in(run)} if fits(one, path)]
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
    """What was varied beside the setting, by its own parts where the setting is one of them.

    A varied preset is only a name: every setting of the run, beside the one in question, stands for it.
    """
    varied = varied_in(run)
    whole = {one for one in varied if one == PRESET or _is_above(one, path)}
    rest = {one: value for one, value in varied.items() if one not in whole and not fits(one, path)}
    for one in run.params:
        part = PRESET in whole or any(one.startswith(f"{above}.") for above in whole)
        if part and one not in (Param.SEED, PRESET) and not fits(one, path):
            rest[one] = value_of(run.params[one])
    return rest


def _is_above(one: str, path: str) -> bool:
    """Whether a setting holds the one in question."""
    parts = path.split(".")
    return any(fits(one, ".".join(parts[:n])) for n in range(1, len(parts)))
