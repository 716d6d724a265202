"""What a reader of a report must know before any number."""

from __future__ import annotations

from collections import Counter

from hdvae_platform.report.contents import Contents


def marks(contents: Contents) -> list[str]:
    """One sentence or two for each thing that makes the numbers say less than they seem to."""
    return [
        *_many(contents),
        *_unfinished(contents),
        *_seeds(contents),
        *_mixed(contents),
        *_missing(contents),
        *_few_seeds(contents),
    ]


def _many(contents: Contents) -> list[str]:
    shown, total = len(contents.arms), contents.arms_in_all
    if shown == total:
        return []
    return [f"The study has {total} arms. These are the {shown} best by {contents.metric}: `hdvae compare` has all."]


def _unfinished(contents: Contents) -> list[str]:
    if not contents.to_do:
        return []
    left, total = contents.to_do, contents.status.total
    lacking = sum(not arm.arm.runs for arm in contents.arms) + contents.not_begun
    without = f" {lacking} of its arms {'has' if lacking == 1 else 'have'} no complete run yet." if lacking else ""
    return [
        f"The study is not finished: {left} of its {total} runs have not ended, and are not in these means "
        f"(counted as by `hdvae study status {contents.study.name}`).{without}"
    ]


def _seeds(contents: Contents) -> list[str]:
    held = {frozenset(arm.arm.seeds) for arm in contents.complete}
    if len(held) < 2:
        return []
    return [
        "Arms differ in their seeds. A paired difference is of the seeds that two arms share, and not the difference "
        "of the means in the table of arms."
    ]


def _mixed(contents: Contents) -> list[str]:
    """Runs that more than one version of the code or of the data made."""
    found = []
    for what, tag in (("versions of the code", "hdvae.sources"), ("versions of the data", "hdvae.data_checksum")):
        by = Counter(run.tags.get(tag, "unknown") for run in contents.complete_runs)
        if len(by) > 1:
            shares = ", ".join(f"{value[:8]} in {count} runs" for value, count in by.most_common())
            found.append(
                f"{len(by)} {what} made these runs ({shares}): differences between arms may be theirs. "
                "The table of runs tells which is which."
            )
    return found


def _missing(contents: Contents) -> list[str]:
    total = len(contents.complete_runs)
    found = []
    for metric in contents.metrics:
        having = sum(len(arm.values(metric)) for arm in contents.arms)
        if having < total:
            found.append(
                f"{total - having} of {total} complete runs have no finite {metric}: they are not in its means."
            )
    return found


def _few_seeds(contents: Contents) -> list[str]:
    if any(len(set(arm.arm.seeds)) > 1 for arm in contents.complete):
        return []
    said = "Every arm has one seed: nothing in the table of arms tells a difference between arms from chance."
    again = any(len(one.values) > 1 for one in contents.confirmed)
    return [said + (" The winners were run again on fresh seeds, and have intervals over them." if again else "")]
