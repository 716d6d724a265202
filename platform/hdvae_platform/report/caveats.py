"""The caveats of a report: those of `hdvae compare`, and those that concern a report alone."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae_platform.analysis.caveats import caveats_of_few_pairs, caveats_of_runs
from hdvae_platform.report.contents import Contents


def report_caveats(contents: Contents, metrics: Sequence[str]) -> list[str]:
    """What a reader must know before believing the numbers, one line each.

    Args:
        contents: the contents of the report.
        metrics: full names of the metrics that it shows.
    """
    arms = [arm.arm for arm in contents.arms]
    return [
        *_omitted_arms(contents),
        *_unfinished(contents),
        *_unsent(contents),
        *caveats_of_runs(arms, metrics, contents.confirmed),
        *_one_seed(contents),
        *caveats_of_few_pairs(
            [one.seeds for metric in contents.metrics for one in contents.differences(metric) if one.paired]
        ),
    ]


def _omitted_arms(contents: Contents) -> list[str]:
    shown, total = len(contents.arms), contents.total_arms
    if shown == total:
        return []
    best = f"the study has {total} arms; this page shows the {shown} best by {contents.metric}"
    return [f"many arms: {best}, and hdvae compare shows all"]


def _unfinished(contents: Contents) -> list[str]:
    if not contents.to_do:
        return []
    left, total = contents.to_do, contents.status.total
    without_run = sum(not arm.arm.runs for arm in contents.arms) + contents.not_begun
    arms = f"; {without_run} arm{' has' if without_run == 1 else 's have'} no complete run yet" if without_run else ""
    return [
        f"not finished: {left} of {total} runs have not ended and are not in the means{arms}; "
        f"hdvae study status {contents.study.name} shows the progress"
    ]


def _unsent(contents: Contents) -> list[str]:
    count = contents.unsent
    if not count:
        return []
    runs = "1 complete run is" if count == 1 else f"{count} complete runs are"
    return [f"not in MLflow: the final numbers of {runs} missing from the means; hdvae study run sends them to MLflow"]


def _one_seed(contents: Contents) -> list[str]:
    if any(len(set(arm.arm.seeds)) > 1 for arm in contents.complete):
        return []
    caveat = "one seed: every arm was trained with one seed, so differences between arms may be due to chance"
    confirmed = any(len(one.values) > 1 for one in contents.confirmed)
    return [caveat + ("; confirmed trials have several fresh seeds, and intervals over them" if confirmed else "")]
