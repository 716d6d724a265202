"""Pareto dominance, for searches over several metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def is_dominated(score_M: Sequence[float], scores_TM: Iterable[Sequence[float]]) -> bool:
    """Whether some trial is better in one metric and at least as good in all others.

    >>> scores_TM = [(0.0, 2.0), (1.0, 1.0), (0.0, 1.0)]
    >>> [is_dominated(score_M, scores_TM) for score_M in scores_TM]
    [False, False, True]

    Args:
        score_M: the scores of one trial in M metrics; larger is better.
        scores_TM: the scores of T trials.
    """
    return any(_dominates(other_M, score_M) for other_M in scores_TM)


def _dominates(first_M: Sequence[float], second_M: Sequence[float]) -> bool:
    pairs = list(zip(first_M, second_M, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
