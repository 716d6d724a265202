"""Answers a question of comparison from MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae_platform.analysis.arms import Arm, with_runs
from hdvae_platform.analysis.arms_from_mlflow import read_arms
from hdvae_platform.analysis.blocks import blocks_of
from hdvae_platform.analysis.caveats import caveats_of, caveats_of_few_pairs, caveats_of_trends, left_out_of_trend
from hdvae_platform.analysis.comparison import Comparison, Question
from hdvae_platform.analysis.confirmation import confirmations
from hdvae_platform.analysis.differences import arm_pairs, differences
from hdvae_platform.analysis.image_pairs import ImageValues
from hdvae_platform.analysis.metric_names import is_test
from hdvae_platform.analysis.trends import arms_in_trends, trend
from hdvae_platform.tracking.client import Client

MAX_RUNS_BY_IMAGE = 200
"""The most runs of which the values of each image are read: each has a file."""


def compare(client: Client, question: Question) -> Comparison:
    """Answer a question from MLflow.

    Raises:
        InputError: there is no such study, setting, metric or arm, or no complete run.
        Unreachable: MLflow does not answer.
    """
    arms = read_arms(client, question.studies, question.by, question.where, question.metrics, question.kept)
    if question.trend is not None:
        return _trends(question, question.trend, arms)
    pairs = arm_pairs(arms, question.against)
    metrics = _metrics_with_differences(question)
    read_images = pairs and sum(len(arm.runs) for arm in arms) <= MAX_RUNS_BY_IMAGE
    confirmed = confirmations(client, question.studies, question.where)
    too_many = len(with_runs(arms)) > 1 and not pairs
    found = differences(pairs, metrics, ImageValues(client, metrics) if read_images else None)
    few = caveats_of_few_pairs([one.over_seeds.seeds for one in found if one.over_seeds.paired])
    return Comparison(
        studies=question.studies,
        arms=arms,
        metrics=question.metrics,
        differences=found,
        confirmations=confirmed,
        caveats=[
            *caveats_of(arms, _all_shown(question, arms), confirmed, too_many_for_differences=too_many),
            *few,
        ],
    )


def _trends(question: Question, path: str, arms: Sequence[Arm]) -> Comparison:
    trends = [trend(blocks_of(arms, path, metric), path, metric, question.direction) for metric in question.shown]
    entered = arms_in_trends(arms, trends)
    return Comparison(
        studies=question.studies,
        arms=arms,
        metrics=question.shown,
        trends=trends,
        caveats=[
            *left_out_of_trend(arms, entered, path),
            *caveats_of_trends(trends),
            *caveats_of(entered, question.shown),
        ],
    )


def _all_shown(question: Question, arms: Sequence[Arm]) -> list[str]:
    """The metrics of the answer, in any format."""
    everything = question.all_metrics and not question.metrics
    return sorted({metric for arm in arms for metric in arm.metrics()}) if everything else question.shown


def _metrics_with_differences(question: Question) -> list[str]:
    """The metrics whose differences are computed: a `test/` metric only against an arm that the user named."""
    return [metric for metric in question.shown if question.against or not is_test(metric)]
