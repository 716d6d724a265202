"""What a reader of a comparison must know before believing it: said beside the numbers, never averaged away."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hdvae.experiment.presets import STATED
from hdvae_platform.analysis.arms import Arm, is_test, label, measured_on_test
from hdvae_platform.analysis.confirmation import Confirmation
from hdvae_platform.analysis.differences import ARMS
from hdvae_platform.analysis.trends import Trend
from hdvae_platform.study.space import PRESET
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Param, Tag
from hdvae_platform.tracking.provenance import described

MEASURED = ("evaluation.",)
"""Beginnings of the settings on which the meaning of a metric's name depends."""
OWN = ("evaluation.every",)
"""Those of them on which it does not."""
NAMED = 4
"""Settings, or metrics, that are named of more."""
SHORT = 40
"""Characters of the values of a setting that are shown beside its name."""


def marks(
    compared: Sequence[Arm],
    metrics: Sequence[str],
    confirmed: Sequence[Confirmation] = (),
    *,
    withheld: bool = False,
) -> list[str]:
    """One line for each thing that a reader of `hdvae compare` must know.

    Args:
        compared: the arms.
        metrics: full names of what is shown.
        confirmed: the winners of searches that are shown beside them.
        withheld: whether no differences are shown since the arms are too many.
    """
    found = [*_unfinished(compared), *of_runs(compared, metrics, confirmed), *_tested(metrics)]
    many = f"many: more than {ARMS} arms: for differences use --by, --where or --against"
    return [*found, *([many] if withheld else [])]


def of_runs(compared: Sequence[Arm], metrics: Sequence[str], confirmed: Sequence[Confirmation] = ()) -> list[str]:
    """One line for each thing that makes arms less comparable than they look."""
    runs = [run for arm in compared for run in arm.runs]
    everything = [*runs, *(run for one in confirmed for run in one.runs)]
    found = [*_lacking(compared, metrics), *_seeds(compared), *_pooled(compared)]
    found += [*mixed_code(everything), *_mixed(everything, "data", checksum)]
    return [*found, *_measured(everything, metrics), *_studies(compared), *_unconfirmed(confirmed)]


def left_out(compared: Sequence[Arm], kept: Sequence[Arm], path: str) -> list[str]:
    """The mark of runs that say nothing of a trend in a setting, by study; none where all do.

    Args:
        compared: the arms.
        kept: the same with the runs that entered the trend.
        path: the setting.
    """
    by_study = Counter(run.study for arm in compared for run in arm.runs)
    total = by_study.total()
    by_study.subtract(run.study for arm in kept for run in arm.runs)
    if not by_study.total():
        return []
    named = ", ".join(f"{count} of {study}" for study, count in by_study.items() if count)
    why = f"no run differs from them in {path} alone, or they lack the metric"
    return [f"left out: {by_study.total()} of {total} runs are not in the trend ({named}), since {why}"]


def of_trends(found: Sequence[Trend]) -> list[str]:
    """What must be known of trends."""
    lines = []
    for one in found:
        if one.pooled:
            at = _listed([f"{level:g}" for level in one.pooled])
            lines.append(f"pooled: at {one.path} {at} a block has the mean of several settings")
        if one.constant:
            blocks = f"{one.constant} block{'s' if one.constant > 1 else ''}"
            lines.append(f"constant: {blocks} of one {one.metric} at every level, which has no order, left out")
        if one.by_seed is not None:
            lines.append("blocks: those of a seed count as independent in p, but not where whole seeds are the units")
        if "_bias_signed" in one.metric and max(one.means) < 0:
            lines.append("sign: the bias is below 0 at every level; its size grows where the trend is decreasing")
    return list(dict.fromkeys(lines))


def _unfinished(compared: Sequence[Arm]) -> Iterable[str]:
    count = sum(arm.unfinished for arm in compared)
    if count:
        yield f"unfinished: {_runs(count)} had not ended and {_are(count)} left out"
    empty = [arm for arm in compared if not arm.runs]
    if empty:
        have = "has" if len(empty) == 1 else "have"
        yield f"empty: {len(empty)} of {len(compared)} arms {have} no complete run, the first is {label(empty[0].arm)}"


def _lacking(compared: Sequence[Arm], metrics: Sequence[str]) -> Iterable[str]:
    """Metrics without a number: in some runs of an arm, which has a mean all the same, or in all of them."""
    whole = [(arm.runs, {metric for run in arm.runs for metric in run.metrics}) for arm in compared if arm.runs]
    total = sum(len(runs) for runs, _ in whole)
    missing = {
        metric: sum(metric not in run.metrics for runs, known in whole if metric in known for run in runs)
        for metric in metrics
    }
    wild = {
        metric: sum(not math.isfinite(run.metrics.get(metric, 0.0)) for runs, _ in whole for run in runs)
        for metric in metrics
    }
    absent = {metric: sum(metric not in known for _, known in whole) for metric in metrics}
    for what, counts in (("missing", missing), ("not finite", wild)):
        for count, lacking in _by_count(counts):
            which = "its means leave" if len(lacking) == 1 else "their means leave"
            yield f"{what}: {_listed(lacking)} in {count} of {total} runs, which {which} out"
    for count, lacking in _by_count(absent):
        if count < len(whole):
            yield f"not measured: {_listed(lacking)} in any run of {count} of {len(whole)} arms"


def _by_count(counts: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """Each number above 0, and the metrics that have it."""
    return [
        (count, [metric for metric in counts if counts[metric] == count]) for count in sorted({*counts.values()} - {0})
    ]


def _seeds(compared: Sequence[Arm]) -> Iterable[str]:
    held = [set(arm.seeds) for arm in compared if arm.runs]
    if any(seeds != held[0] for seeds in held):
        yield "seeds: arms differ in their seeds; pairs are made of those that two arms share, if most are"


def _pooled(compared: Sequence[Arm]) -> Iterable[str]:
    """Arms that are more than one parameter set: by `--by`, since an arm of all that was varied is one."""
    pools = [arm.pools for arm in compared if arm.runs]
    pooling = [sets for sets in pools if len(sets) > 1]
    if not pooling:
        return
    yield (
        f"pooled: {len(pooling)} of {len(pools)} arms hold several parameter sets, over which the values of a seed are "
        f"averaged; they differ in {_listed(sorted({path for sets in pooling for path in _differing(sets)}))}"
    )
    if any(len({frozenset(seeds) for seeds in sets.values()}) > 1 for sets in pooling):
        yield "pooled unevenly: an arm has some of its sets without a seed, so its seeds' means are of different sets"
    apart = [path for path in _shared(pools) if len({frozenset(_values(sets, path)) for sets in pools}) > 1]
    if apart:
        yield (
            "confounded: arms were not trained with the same other settings, so their differences are also those of "
            f"{_listed(apart)}: choose with --where what they share"
        )


def _values(sets: Iterable[str], path: str) -> set[str]:
    """The values that a setting has in parameter sets, all written as JSON."""
    return {json.dumps(json.loads(one).get(path)) for one in sets}


def _differing(sets: Collection[str]) -> set[str]:
    """The settings in which parameter sets differ."""
    paths = {path for one in sets for path in json.loads(one)}
    return {path for path in paths if len(_values(sets, path)) > 1}


def _shared(pools: Sequence[Iterable[str]]) -> list[str]:
    """The settings that parameter sets of every arm have; others mean nothing in some arm."""
    return sorted(set.intersection(*({path for one in sets for path in json.loads(one)} for sets in pools)))


def _listed(names: Sequence[str]) -> str:
    """Names, the first few of many."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def checksum(run: TrackedRun) -> str:
    """The data of a run, in short."""
    return f"checksum {run.tags.get(Tag.DATA_CHECKSUM, '')[:8] or 'unknown'}"


def code(run: TrackedRun) -> str:
    """The code that made a run."""
    keys = {"version": Tag.VERSION, "sources": Tag.SOURCES, "commit": Tag.COMMIT}
    known = {key: run.tags[tag] for key, tag in keys.items() if tag in run.tags}
    if not {"version", "sources"} <= known.keys():
        return "an unknown version"
    return described({**known, "dirty": run.tags.get(Tag.GIT_DIRTY, "false")})


def _mixed(runs: Sequence[TrackedRun], what: str, of: Callable[[TrackedRun], str]) -> Iterable[str]:
    counted = Counter(map(of, runs))
    if len(counted) > 1:
        yield f"mixed {what}: " + "; ".join(f"{_runs(count)} with {one}" for one, count in counted.most_common())


def mixed_code(runs: Sequence[TrackedRun]) -> list[str]:
    """The mark of runs that several versions of the code made; none where one did."""
    return list(_mixed(runs, "code", code))


def _measured(runs: Sequence[TrackedRun], metrics: Sequence[str]) -> Iterable[str]:
    """Settings under which one name means several things."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        for path, value in run.params.items():
            if path.startswith(MEASURED) and path not in OWN:
                seen.setdefault(path, set()).add(value)
        for name, value in measured_on_test(run).items() if any(map(is_test, metrics)) else ():
            seen.setdefault(f"{name} of test images", set()).add(json.dumps(value))
    for path, values in seen.items():
        if len(values) > 1:
            yield f"measured differently: {path} is {' or '.join(sorted(values))}, under one name"


def _studies(compared: Sequence[Arm]) -> Iterable[str]:
    """Settings in which studies differ, and of which the labels of an arm say nothing."""
    held: dict[str, dict[str, set[str]]] = {}
    unsaid: set[str] = set()
    for arm in compared:
        for run in arm.runs:
            for path, text in run.params.items():
                held.setdefault(run.study, {}).setdefault(path, set()).add(text)
        unsaid.update(path for path in {path for run in arm.runs for path in run.params} if not _said(path, arm))
    if len(held) < 2:
        return
    paths = dict.fromkeys(path for settings in held.values() for path in settings)
    differing = [
        path
        for path in paths
        if path in unsaid and path != Param.SEED and not path.startswith(MEASURED)
        if len({frozenset(settings.get(path, ())) for settings in held.values()}) > 1
    ]
    if differing:
        named = [_beside(path, list(held.values())) for path in differing[:NAMED]]
        more = [f"and {len(differing) - NAMED} more"] if len(differing) > NAMED else []
        yield f"studies differ, beyond what arms say ({' | '.join(held)}): {'; '.join([*named, *more])}"


def _said(path: str, arm: Arm) -> bool:
    """Whether the label of an arm says this setting, or what it is part of."""
    said = [*arm.arm, *(STATED if PRESET in arm.arm else ())]
    return any(path == one or path.startswith(f"{one}.") for one in said)


def _beside(path: str, studies: Sequence[Mapping[str, set[str]]]) -> str:
    """A setting with its values in each study, where these are short."""
    values = " | ".join(", ".join(sorted(settings.get(path, ("unset",)))) for settings in studies)
    return f"{path} {values}" if len(values) <= SHORT else path


def _unconfirmed(confirmed: Sequence[Confirmation]) -> Iterable[str]:
    lost, unfinished = sum(one.lost for one in confirmed), sum(one.unfinished for one in confirmed)
    if lost:
        yield f"confirmations: {_runs(lost)} on fresh seeds did not end with a finite value and {_are(lost)} left out"
    if unfinished:
        yield f"confirmations: {_runs(unfinished)} on fresh seeds had not ended and {_are(unfinished)} left out"


def _tested(metrics: Sequence[str]) -> Iterable[str]:
    shown = [metric for metric in metrics if is_test(metric)]
    if shown:
        yield (
            f"final: {_listed(shown)} may close a comparison and never make a choice: "
            "arms stay in the study's order, and are only compared with the one that --against names"
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def as_lines(found: Sequence[str]) -> str:
    """The marks for a terminal."""
    return "\n".join(f"! {one}" for one in found)
