"""Trends: does a metric grow or fall with a setting, in blocks of runs that share everything else?"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize

from hdvae.errors import InputError
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.blocks import Block
from hdvae_platform.analysis.inference import Interval, interval
from hdvae_platform.analysis.metric_names import signed_name
from hdvae_platform.analysis.rank_tests import Direction, RankTest, permutation_p, rank_test


@dataclass(frozen=True)
class Trend:
    """The trend of a metric in a setting.

    Attributes:
        path: path of the setting.
        metric: full name; for a bias |δ| the name of the signed δ, which is tested.
        direction: the alternative that was tested.
        test: the test over blocks.
        p_by_seed: p-value with whole seeds as units; None where each seed has one block.
        levels: values of the setting.
        runs: number of runs at each level.
        pooled: levels at which a block averages runs with several settings.
        means: mean of the metric at each level, adjusted for differences between blocks.
        fitted: isotonic fit of the means.
        grows: whether the fit is increasing.
        change: metric at the last level minus at the first, within blocks, over seeds; None if no block has both.
        blocks: the blocks that entered the test.
        left_out: number of blocks with a single level, which hold no information.
        constant: number of blocks with the same value at all levels, such as a bias that is 0 by definition.
    """

    path: str
    metric: str
    direction: Direction
    test: RankTest
    p_by_seed: float | None
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
        """The p-value of the tested direction, with blocks as independent units."""
        return self.test.p(self.direction)

    @property
    def words(self) -> str:
        """The result of the test in words."""
        name = "Page's L" if self.test.name == "page" else "Jonckheere's J"
        sides = "two-sided" if self.direction == "two-sided" else f"one-sided, {self.direction}"
        kind = "exact" if self.test.exact else "asymptotic"
        blocks, seeds = len(self.blocks), len({block.seed for block in self.blocks})
        counted = f"{blocks} block{'s' if blocks > 1 else ''} of {seeds} seed{'s' if seeds > 1 else ''}"
        result = f"{name} = {self.test.statistic:g}, p = {self.p:.2g} ({kind}, {sides}), {counted}"
        return result if self.p_by_seed is None else f"{result}; with whole seeds as units p = {self.p_by_seed:.2g}"

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        tested = {"test": self.test.name, "statistic": self.test.statistic, "p": self.p, "exact": self.test.exact}
        kept = ("path", "metric", "direction", "levels", "runs", "means", "fitted", "left_out", "constant")
        counts = {"blocks": len(self.blocks), "seeds": len({block.seed for block in self.blocks})}
        change = None if self.change is None else vars(self.change)
        return {
            **{key: getattr(self, key) for key in kept},
            **tested,
            "p_by_seed": self.p_by_seed,
            **counts,
            "change": change,
        }


def trend(blocks: Sequence[Block], path: str, metric: str, direction: Direction = "two-sided") -> Trend:
    """Test for a trend, and fit it.

    Args:
        blocks: runs in blocks.
        path: path of the setting, for messages.
        metric: full name.
        direction: the alternative.

    Raises:
        InputError: no block has two levels, the metric is constant within blocks, or no blocks connect the levels.
    """
    several = [block for block in blocks if len(block.values) > 1]
    if not several:
        raise InputError(f"--trend {path}: no two runs with {metric} differ in this setting alone")
    varying = [block for block in several if len(set(block.values.values())) > 1]
    if not varying:
        raise InputError(f"--trend {path}: {metric} is the same at every level, so there is no trend to test")
    test = rank_test([block.row for block in varying])
    levels = sorted({level for block in varying for level in block.values})
    counts = Counter(level for block in varying for level in block.values)
    runs = Counter(level for block in varying for level, same in block.runs.items() for _ in same)
    means = _adjusted_means(varying, levels, path)
    grows = direction == "increasing" or (direction == "two-sided" and test.increasing <= test.decreasing)
    weights = [counts[level] for level in levels]
    fitted = optimize.isotonic_regression(means, weights=weights, increasing=grows).x
    return Trend(
        path=path,
        metric=signed_name(metric),
        direction=direction,
        test=test,
        p_by_seed=_p_by_seed(varying, direction),
        levels=levels,
        runs=[runs[level] for level in levels],
        pooled=sorted({level for block in varying for level, same in block.runs.items() if len(same) > 1}),
        means=means.tolist(),
        fitted=fitted.tolist(),
        grows=grows,
        change=_change(varying, levels),
        blocks=varying,
        left_out=len(blocks) - len(several),
        constant=len(several) - len(varying),
    )


def _p_by_seed(blocks: Sequence[Block], direction: Direction) -> float | None:
    """The p-value with whole seeds as units; None where each seed has one block."""
    by_seed: dict[int, list[Block]] = {}
    for block in blocks:
        by_seed.setdefault(block.seed, []).append(block)
    if len(by_seed) == len(blocks):
        return None
    return permutation_p([[block.values for block in same] for same in by_seed.values()], direction)


def _adjusted_means(blocks: Sequence[Block], levels: Sequence[float], path: str) -> np.ndarray:
    """Least-squares means of the levels in the model level + block: the plain means where all blocks are complete."""
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
    effects, _, rank, _ = np.linalg.lstsq(matrix, right, rcond=1e-9)
    if rank < len(levels) - 1:
        raise InputError(
            f"--trend {path}: no runs that share their other settings connect its values, so these cannot be compared"
        )
    means: np.ndarray = effects + (total - weights @ effects) / weights.sum()
    return means


def _change(blocks: Sequence[Block], levels: Sequence[float]) -> Interval | None:
    """The mean over seeds of the metric at the last level minus at the first, within blocks."""
    by_seed: dict[int, list[float]] = {}
    for block in blocks:
        if levels[0] in block.values and levels[-1] in block.values:
            by_seed.setdefault(block.seed, []).append(block.values[levels[-1]] - block.values[levels[0]])
    return interval([statistics.fmean(apart) for apart in by_seed.values()]) if by_seed else None


def arms_in_trends(compared: Sequence[Arm], trends: Sequence[Trend]) -> list[Arm]:
    """The arms with only the runs that entered a trend, and the arms of the same studies without a complete run."""
    ids = {run_id for one in trends for block in one.blocks for same in block.runs.values() for run_id in same}
    kept = [replace(arm, runs=[run for run in arm.runs if run.run_id in ids]) for arm in compared]
    studies = {arm.settings.get("study") for arm in kept if arm.runs}
    return [
        part
        for arm, part in zip(compared, kept, strict=True)
        if part.runs or (not arm.runs and arm.settings.get("study") in studies)
    ]
