"""A comparison as data: the question, and its answer.

`compare` answers a question; `comparison_text` and `comparison_table` show the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hdvae.evaluation.metrics import error_name
from hdvae_platform.analysis.answers import Answer
from hdvae_platform.analysis.arms import Arm, names_of
from hdvae_platform.analysis.confirmation import Confirmation
from hdvae_platform.analysis.differences import Difference
from hdvae_platform.analysis.inference import interval
from hdvae_platform.analysis.metric_names import BIAS, ELBO, USUAL, limits_of, parts_of
from hdvae_platform.analysis.rank_tests import Direction
from hdvae_platform.analysis.run_settings import Condition
from hdvae_platform.analysis.trends import Trend
from hdvae_platform.study.space import set_key

USUAL_DIFFERENCES = (ELBO, BIAS)
"""The metrics whose differences are printed if no metric is asked for."""


@dataclass(frozen=True)
class Question:
    """What to compare.

    Attributes:
        studies: names.
        by: dotted paths to group runs by; without any, everything that was varied. Not with a trend.
        metrics: full names; without any, the usual ones.
        where: conditions on the settings of a run.
        against: settings of the arm to compare every other arm with; without any, every pair is compared. Not with a
            trend.
        trend: path of a setting in which to test for a trend; a bias |δ| is tested as signed δ.
        direction: the alternative of the trend test.
        all_metrics: whether to keep every metric of each run if no metric is asked for.
    """

    studies: Sequence[str]
    by: Sequence[str] = ()
    metrics: Sequence[str] = ()
    where: Sequence[Condition] = ()
    against: Mapping[str, Any] = field(default_factory=dict)
    trend: str | None = None
    direction: Direction = "two-sided"
    all_metrics: bool = False

    @property
    def shown(self) -> list[str]:
        """The metrics in tables of arms."""
        return list(self.metrics) or ([BIAS] if self.trend else [f"valid/{name}" for name in USUAL])

    @property
    def is_whole(self) -> bool:
        """Whether the answer is about whole studies, with the arms that they have: only then are they summed up."""
        return not (self.by or self.where or self.against or self.trend)

    @property
    def kept(self) -> set[str]:
        """The metrics to keep of each run; an empty set means all."""
        shown = {*self.shown, *USUAL_DIFFERENCES}
        parts = {part for metric in shown for part in parts_of(metric) or ()}
        errors = {error_name(metric) for metric in shown}
        errors |= {limit for metric in shown for limit in limits_of(metric) or ()}
        return set() if self.all_metrics and not self.metrics else shown | parts | errors


@dataclass(frozen=True)
class Comparison:
    """The answer to a question.

    Attributes:
        studies: names.
        arms: in the order of the studies and trials.
        metrics: full names of the metrics that were asked for; empty for the usual ones.
        differences: between arms.
        confirmations: the best trials of the searches, trained again with fresh seeds.
        trends: one for each metric, if a trend was asked for.
        caveats: what a reader must know before believing the numbers, one line each.
        answers: the best trials and the verdicts of each study that the study database knows.
    """

    studies: Sequence[str]
    arms: Sequence[Arm]
    metrics: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    confirmations: Sequence[Confirmation] = ()
    trends: Sequence[Trend] = ()
    caveats: Sequence[str] = ()
    answers: Sequence[Answer] = ()

    @property
    def names(self) -> dict[str, str]:
        """The settings of each arm, as their key → the name of the arm: see `arms.names_of`."""
        return dict(zip((set_key(arm.settings) for arm in self.arms), names_of(self.arms), strict=True))

    def plain(self) -> dict[str, Any]:
        """JSON-like values: all arms, differences, confirmed trials, trends, caveats and answers."""
        names = self.names
        return {
            "studies": list(self.studies),
            "arms": [_plain_arm(arm, names[set_key(arm.settings)], self.metrics) for arm in self.arms],
            "differences": [_plain_difference(difference, names) for difference in self.differences],
            "confirmations": [confirmation.plain() for confirmation in self.confirmations],
            "trends": [trend.plain() for trend in self.trends],
            "caveats": list(self.caveats),
            "answers": [answer.plain() for answer in self.answers],
        }


def _plain_arm(arm: Arm, name: str, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "name": name,
        "arm": arm.settings,
        "runs": len(arm.runs),
        "pruned": arm.pruned,
        "failed": arm.failed,
        "unfinished": arm.unfinished,
        "feasible": arm.feasible,
        "seeds": arm.seeds,
        "handles": [run.handle for run in arm.runs],
        "run_ids": [run.run_id for run in arm.runs],
        "metrics": {
            metric: {**vars(interval(list(by_seed.values()))), "values": arm.each(metric)}
            for metric in metrics or arm.metrics()
            if (by_seed := arm.by_seed(metric))
        },
    }


def _plain_difference(difference: Difference, names: Mapping[str, str]) -> dict[str, Any]:
    a, b = (names[set_key(arm.settings)] for arm in (difference.a, difference.b))
    return {"a_name": a, "b_name": b, **difference.plain()}
