"""Comparison of arms: means over seeds, differences, confirmed winners, trends, and what must be known to believe them.

The parts are in modules of their own: `arms` reads MLflow, `inference` has the intervals and tests, `differences` pairs
arms by seed and image, `confirmation` and `trends` answer their questions, `marks` says what is amiss, and
`comparison_text` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae_platform.analysis.arms import Arm, arms, full_name, is_test, label, parts_of, settings_of, with_runs
from hdvae_platform.analysis.caveats import left_out, marks, of_trends
from hdvae_platform.analysis.comparison_text import (
    DIFFERENCES,
    SHOWN,
    Shown,
    as_table,
    confirmation_table,
    in_full,
    in_markdown,
)
from hdvae_platform.analysis.confirmation import Confirmation, confirmations
from hdvae_platform.analysis.differences import Difference, couples, differences
from hdvae_platform.analysis.image_pairs import ImageValues
from hdvae_platform.analysis.inference import Interval, difference, interval
from hdvae_platform.analysis.trends import Direction, blocks_of, entered, trend
from hdvae_platform.tracking.client import Client

__all__ = [
    "DIFFERENCES",
    "SHOWN",
    "Arm",
    "Comparison",
    "Confirmation",
    "Difference",
    "Interval",
    "Question",
    "arms",
    "as_table",
    "compare",
    "confirmation_table",
    "confirmations",
    "difference",
    "full_name",
    "in_full",
    "in_markdown",
    "interval",
    "label",
    "settings_of",
]

IMAGE_RUNS = 200
"""Runs up to which the values of each image are read: a file for each."""
BIAS = "valid/relaxation_bias"
"""The metric of a trend, if none is asked for."""


@dataclass(frozen=True)
class Question:
    """What is to be compared.

    Attributes:
        studies: names.
        by: dotted paths to group by; everything that was varied, if there is none. Not with a trend.
        metrics: full names; the usual ones, if there is none.
        where: settings that a run must have.
        against: settings of the arm with which the others are compared; each with each, if there is none. Not with a
            trend.
        trend: a setting in which a trend is looked for; of a bias |δ|, in the signed δ.
        direction: of the trend.
        whole: whether every metric of each run is kept.
    """

    studies: Sequence[str]
    by: Sequence[str] = ()
    metrics: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)
    trend: str | None = None
    direction: Direction = "two-sided"
    whole: bool = False

    @property
    def shown(self) -> list[str]:
        """The metrics of the tables of arms."""
        return list(self.metrics) or ([BIAS] if self.trend else [f"valid/{name}" for name in SHOWN])

    @property
    def kept(self) -> set[str]:
        """The metrics that are kept of each run; none means all."""
        shown = {*self.shown, *DIFFERENCES}
        parts = {part for metric in shown for part in parts_of(metric) or ()}
        return set() if self.whole and not self.metrics else shown | parts


class Comparison(Shown):
    """The answer."""

    def plain(self) -> dict[str, Any]:
        """JSON-like values: every arm, difference, confirmed winner and trend."""
        return {
            "studies": list(self.studies),
            "arms": [_plain_arm(arm, self.metrics) for arm in self.arms],
            "differences": [one.plain() for one in self.differences],
            "confirmations": [one.plain() for one in self.confirmations],
            "trends": [one.plain() for one in self.trends],
            "marks": list(self.marks),
        }


def compare(client: Client, question: Question) -> Comparison:
    """Answer a question from MLflow.

    Raises:
        InputError: there is no such study, setting, metric or arm, or no complete run.
        Unreachable: MLflow does not answer.
    """
    found = arms(client, question.studies, question.by, question.where, question.metrics, question.kept)
    if question.trend is not None:
        return _of_trend(question, question.trend, found)
    runs = sum(len(arm.runs) for arm in found)
    compared = couples(found, question.against)
    tested = _compared(question)
    values = ImageValues(client, tested) if compared and runs <= IMAGE_RUNS else None
    confirmed = confirmations(client, question.studies, question.where)
    return Comparison(
        studies=question.studies,
        arms=found,
        metrics=question.metrics,
        differences=differences(compared, tested, values),
        confirmations=confirmed,
        marks=marks(found, _said(question, found), confirmed, withheld=len(with_runs(found)) > 1 and not compared),
    )


def _of_trend(question: Question, path: str, found: Sequence[Arm]) -> Comparison:
    trends = [trend(blocks_of(found, path, metric), path, metric, question.direction) for metric in question.shown]
    kept = entered(found, trends)
    return Comparison(
        studies=question.studies,
        arms=found,
        metrics=question.shown,
        trends=trends,
        marks=[*left_out(found, kept, path), *of_trends(trends), *marks(kept, question.shown)],
    )


def _said(question: Question, found: Sequence[Arm]) -> list[str]:
    """The metrics of the answer, in all its forms."""
    whole = question.whole and not question.metrics
    return sorted({metric for arm in found for metric in arm.metrics()}) if whole else question.shown


def _compared(question: Question) -> list[str]:
    """The metrics of which differences are taken: of `test/` only with an arm that was named beforehand."""
    return [metric for metric in question.shown if question.against or not is_test(metric)]


def _plain_arm(arm: Arm, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "arm": arm.arm,
        "runs": len(arm.runs),
        "pruned": arm.pruned,
        "failed": arm.failed,
        "unfinished": arm.unfinished,
        "seeds": arm.seeds,
        "run_ids": [run.run_id for run in arm.runs],
        "metrics": {
            metric: {**vars(interval(list(by_seed.values()))), "values": arm.each(metric)}
            for metric in metrics or arm.metrics()
            if (by_seed := arm.by_seed(metric))
        },
    }
