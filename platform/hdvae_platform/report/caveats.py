"""What a reader of a report must know first: what `hdvae compare` marks, and what concerns a report alone."""

from __future__ import annotations

from collections.abc import Sequence

from hdvae_platform.analysis.caveats import of_runs
from hdvae_platform.report.contents import Contents


def marks(contents: Contents, metrics: Sequence[str]) -> list[str]:
    """One line for each thing that makes the numbers say less than they seem to.

    Args:
        contents: of the report.
        metrics: full names of what it shows.
    """
    arms = [arm.arm for arm in contents.arms]
    return [
        *_many(contents),
        *_unfinished(contents),
        *_unsent(contents),
        *of_runs(arms, metrics, contents.confirmed),
        *_few_seeds(contents),
    ]


def _many(contents: Contents) -> list[str]:
    shown, total = len(contents.arms), contents.arms_in_all
    if shown == total:
        return []
    return [f"many: the study has {total} arms; these are the {shown} best by {contents.metric}: hdvae compare has all"]


def _unfinished(contents: Contents) -> list[str]:
    if not contents.to_do:
        return []
    left, total = contents.to_do, contents.status.total
    lacking = sum(not arm.arm.runs for arm in contents.arms) + contents.not_begun
    without = f"; {lacking} of its arms {'has' if lacking == 1 else 'have'} no complete run yet" if lacking else ""
    return [
        f"not finished: {left} of the study's {total} runs have not ended, and are not in these means (counted as by "
        f"hdvae study status {contents.study.name}){without}"
    ]


def _unsent(contents: Contents) -> list[str]:
    count = contents.unsent
    if not count:
        return []
    runs = "1 complete run, which is" if count == 1 else f"{count} complete runs, which are"
    return [f"not in MLflow: the final numbers of {runs} not in these means; hdvae study run sends them"]


def _few_seeds(contents: Contents) -> list[str]:
    if any(len(set(arm.arm.seeds)) > 1 for arm in contents.complete):
        return []
    said = "one seed: every arm has one, so nothing in the table of arms tells a difference between arms from chance"
    again = any(len(one.values) > 1 for one in contents.confirmed)
    return [said + ("; the winners were run again on fresh seeds, and have intervals over them" if again else "")]
