"""Caveats: what a reader must know before believing a comparison, one line each, beginning with the kind of caveat."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from hdvae.experiment.presets import STATED
from hdvae_platform.analysis.arms import Arm, names_of
from hdvae_platform.analysis.confirmation import Confirmation, fresh_runs
from hdvae_platform.analysis.differences import MAX_ARMS_IN_PAIRS
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.metric_names import is_test
from hdvae_platform.analysis.run_settings import PART, evaluation_on_test, setting
from hdvae_platform.analysis.trends import Trend
from hdvae_platform.study.caveats import short_average
from hdvae_platform.study.space import PRESET
from hdvae_platform.tracking.client import TrackedRun
from hdvae_platform.tracking.names import Param, RunKind, Tag
from hdvae_platform.tracking.provenance import described

EVALUATION_PREFIX = "evaluation."
"""How the settings begin that change what a metric means."""
HARMLESS_SETTINGS = ("evaluation.every",)
"""Settings of the evaluation that do not change what a metric means."""
MAX_LISTED = 4
"""The most settings or metrics that a caveat lists."""
MAX_VALUE_LENGTH = 40
"""Characters up to which the values of a setting are shown beside its name."""


def caveats_of(
    compared: Sequence[Arm],
    metrics: Sequence[str],
    confirmed: Sequence[Confirmation] = (),
    *,
    too_many_for_differences: bool = False,
) -> list[str]:
    """The caveats of `hdvae compare`.

    Args:
        compared: the arms.
        metrics: full names of the metrics shown.
        confirmed: the confirmed trials shown beside the arms.
        too_many_for_differences: whether there are no differences because there are too many arms.
    """
    caveats = [*_unfinished(compared), *caveats_of_runs(compared, metrics, confirmed), *_test_metrics(metrics)]
    many = f"many: differences are left out with more than {MAX_ARMS_IN_PAIRS} arms: use --by, --where or --against"
    return [*caveats, *([many] if too_many_for_differences else [])]


def caveats_of_runs(
    compared: Sequence[Arm], metrics: Sequence[str], confirmed: Sequence[Confirmation] = ()
) -> list[str]:
    """The caveats that follow from the complete runs: what makes arms less comparable than they look."""
    runs = [run for arm in compared for run in arm.runs]
    all_runs = [*runs, *fresh_runs(confirmed)]
    caveats = [*_missing_values(compared, metrics), *_different_seeds(compared), *_pooled(compared)]
    caveats += [*mixed_code(all_runs), *_mixed(all_runs, "data", checksum), *_overlaps(all_runs)]
    caveats += [*_different_evaluations(all_runs, metrics), *_different_studies(compared), *_short_averages(all_runs)]
    return [*caveats, *_incomplete_confirmations(confirmed)]


def caveats_of_few_pairs(pairs: Iterable[int]) -> list[str]:
    """The caveat about differences that rest on two pairs of seeds, once.

    Args:
        pairs: the number of pairs of seeds of each difference that is paired.
    """
    if 2 not in pairs:
        return []
    return [
        "two seeds: with two pairs of seeds an interval and its p rest on one degree of freedom; `expect` gives a "
        "verdict from three pairs on only"
    ]


def left_out_of_trend(compared: Sequence[Arm], entered: Sequence[Arm], path: str) -> list[str]:
    """The caveat about runs that did not enter a trend, by study; none where all entered.

    Args:
        compared: the arms.
        entered: the arms with only the runs that entered the trend.
        path: path of the setting.
    """
    by_study = Counter(run.study for arm in compared for run in arm.runs)
    total = by_study.total()
    by_study.subtract(run.study for arm in entered for run in arm.runs)
    if not by_study.total():
        return []
    named = ", ".join(f"{count} of {study}" for study, count in by_study.items() if count)
    why = f"no other run differs from them only in {path}, or they lack the metric"
    return [f"left out: {by_study.total()} of {total} runs did not enter the trend ({named}): {why}"]


def caveats_of_trends(trends: Sequence[Trend]) -> list[str]:
    """The caveats of trends."""
    caveats = []
    for trend in trends:
        if trend.pooled:
            levels = _listed([f"{level:g}" for level in trend.pooled])
            caveats.append(f"pooled: at {trend.path} = {levels} a block averages runs with several settings")
        if trend.constant:
            blocks = f"{trend.constant} block{'s' if trend.constant > 1 else ''}"
            caveats.append(f"constant: {blocks} left out, in which {trend.metric} is the same at every level")
        if trend.p_by_seed is not None:
            caveats.append(
                "blocks: the first p treats blocks of one seed as independent; the p with whole seeds as units does not"
            )
        if "_bias_signed" in trend.metric and max(trend.means) < 0:
            caveats.append(
                "sign: the bias is below 0 at every level, so a decreasing trend means that its size |δ| grows"
            )
    return list(dict.fromkeys(caveats))


def _unfinished(compared: Sequence[Arm]) -> Iterable[str]:
    count = sum(arm.unfinished for arm in compared)
    if count:
        yield f"unfinished: {_runs(count)} had not ended and {_are(count)} left out"
    empty = [
        f"({name}) {label(arm.settings)}"
        for name, arm in zip(names_of(compared), compared, strict=True)
        if not arm.runs
    ]
    if empty:
        have = "has" if len(empty) == 1 else "have"
        yield f"empty: {len(empty)} of {len(compared)} arms {have} no complete run: {_listed(empty)}"


def _missing_values(compared: Sequence[Arm], metrics: Sequence[str]) -> Iterable[str]:
    """Metrics that are missing or not finite in some runs of an arm, and those that no run of an arm has."""
    known_by_arm = [(arm.runs, {metric for run in arm.runs for metric in run.metrics}) for arm in compared if arm.runs]
    total = sum(len(runs) for runs, _ in known_by_arm)
    missing = {
        metric: sum(metric not in run.metrics for runs, known in known_by_arm if metric in known for run in runs)
        for metric in metrics
    }
    not_finite = {
        metric: sum(not math.isfinite(run.metrics.get(metric, 0.0)) for runs, _ in known_by_arm for run in runs)
        for metric in metrics
    }
    absent = {metric: sum(metric not in known for _, known in known_by_arm) for metric in metrics}
    for kind, counts in (("missing", missing), ("not finite", not_finite)):
        for count, names in _by_count(counts):
            means = "its means leave" if len(names) == 1 else "their means leave"
            yield f"{kind}: {_listed(names)} in {count} of {total} runs; {means} these runs out"
    for count, names in _by_count(absent):
        if count < len(known_by_arm):
            have = "has" if count == 1 else "have"
            yield f"not measured: {count} of {len(known_by_arm)} arms {have} no value of {_listed(names)}"


def _by_count(counts: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """Each count above 0, and the metrics that have it."""
    return [
        (count, [metric for metric in counts if counts[metric] == count]) for count in sorted({*counts.values()} - {0})
    ]


def _different_seeds(compared: Sequence[Arm]) -> Iterable[str]:
    by_arm = [set(arm.seeds) for arm in compared if arm.runs]
    if any(seeds != by_arm[0] for seeds in by_arm):
        yield (
            "seeds: the arms do not have the same seeds; a difference is paired where two arms share more than half of "
            "each one's seeds"
        )


def _pooled(compared: Sequence[Arm]) -> Iterable[str]:
    """Arms that pool several parameter sets, which happens with `--by` only."""
    pools = [arm.pools for arm in compared if arm.runs]
    pooling = [sets for sets in pools if len(sets) > 1]
    if not pooling:
        return
    yield (
        f"pooled: {len(pooling)} of {len(pools)} arms average several parameter sets for each seed; these differ in "
        f"{_listed(sorted({path for sets in pooling for path in _differing(sets)}))}"
    )
    if any(len({frozenset(seeds) for seeds in sets.values()}) > 1 for sets in pooling):
        yield "pooled unevenly: some seeds of an arm lack some of its parameter sets, so seeds average different sets"
    confounding = [path for path in _shared(pools) if len({frozenset(_values(sets, path)) for sets in pools}) > 1]
    if confounding:
        yield (
            f"confounded: the arms also differ in {_listed(confounding)}, so their differences may come from there: "
            "select runs with the same values by --where"
        )


def _values(sets: Iterable[str], path: str) -> set[str]:
    """The values of a setting in parameter sets; sets and values are written as JSON."""
    return {json.dumps(json.loads(one).get(path)) for one in sets}


def _differing(sets: Collection[str]) -> set[str]:
    """The settings in which parameter sets differ."""
    paths = {path for one in sets for path in json.loads(one)}
    return {path for path in paths if len(_values(sets, path)) > 1}


def _shared(pools: Sequence[Iterable[str]]) -> list[str]:
    """The settings that occur in the parameter sets of every arm; others do not apply to some arm."""
    return sorted(set.intersection(*({path for one in sets for path in json.loads(one)} for sets in pools)))


def _listed(names: Sequence[str]) -> str:
    """Names as a list; of many the first few."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def checksum(run: TrackedRun) -> str:
    """The checksum of a run's data, shortened."""
    return f"checksum {run.tags.get(Tag.DATA_CHECKSUM, '')[:8] or 'unknown'}"


def code(run: TrackedRun) -> str:
    """The version of the code that trained a run."""
    keys = {"version": Tag.VERSION, "sources": Tag.SOURCES, "commit": Tag.COMMIT}
    known = {key: run.tags[tag] for key, tag in keys.items() if tag in run.tags}
    if not {"version", "sources"} <= known.keys():
        return "an unknown version"
    return described({**known, "dirty": run.tags.get(Tag.GIT_DIRTY, "false")})


def _mixed(runs: Sequence[TrackedRun], kind: str, describe: Callable[[TrackedRun], str]) -> Iterable[str]:
    counted = Counter(map(describe, runs))
    if len(counted) > 1:
        yield f"mixed {kind}: " + "; ".join(f"{_runs(count)} with {one}" for one, count in counted.most_common())


def _overlaps(runs: Sequence[TrackedRun]) -> Iterable[str]:
    """Data in which images stand in two splits, so that a model is tested on images that it has seen."""
    for overlap in dict.fromkeys(run.tags.get(Tag.DATA_OVERLAP, "none") for run in runs):
        if overlap != "none":
            yield f"images in two splits: {overlap}"


def mixed_code(runs: Sequence[TrackedRun]) -> list[str]:
    """The caveat about runs by several versions of the code; none where there is one version."""
    return list(_mixed(runs, "code", code))


def _different_evaluations(runs: Sequence[TrackedRun], metrics: Sequence[str]) -> Iterable[str]:
    """Settings of the evaluation in which runs differ, so that a metric means different things."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        for path, value in run.params.items():
            if path.startswith(EVALUATION_PREFIX) and path not in HARMLESS_SETTINGS and not _is_held_out(run, path):
                seen.setdefault(path, set()).add(value)
        for name, value in evaluation_on_test(run).items() if any(map(is_test, metrics)) else ():
            seen.setdefault(f"{name} on test images", set()).add(json.dumps(value))
    for path, values in seen.items():
        if len(values) > 1:
            yield f"measured differently: runs differ in {path}: {', '.join(sorted(values))}"


def _is_held_out(run: TrackedRun, path: str) -> bool:
    """Whether a setting is the part of the images of a confirmation, which differs from the search's on purpose."""
    return path == PART and run.tags.get(Tag.KIND) == RunKind.CONFIRMATION


def _different_studies(compared: Sequence[Arm]) -> Iterable[str]:
    """Settings in which studies differ, but which are not in the label of every arm."""
    by_study: dict[str, dict[str, set[str]]] = {}
    unlabelled: set[str] = set()
    for arm in compared:
        for run in arm.runs:
            for path, text in run.params.items():
                by_study.setdefault(run.study, {}).setdefault(path, set()).add(text)
        paths_of_arm = {path for run in arm.runs for path in run.params}
        unlabelled.update(path for path in paths_of_arm if not _in_label(path, arm))
    if len(by_study) < 2:
        return
    paths = dict.fromkeys(path for settings in by_study.values() for path in settings)
    differing = [
        path
        for path in paths
        if path in unlabelled and path != Param.SEED and not path.startswith(EVALUATION_PREFIX)
        if len({frozenset(settings.get(path, ())) for settings in by_study.values()}) > 1
    ]
    if differing:
        listed = [_with_values(path, list(by_study.values())) for path in differing[:MAX_LISTED]]
        more = [f"and {len(differing) - MAX_LISTED} more"] if len(differing) > MAX_LISTED else []
        settings = "; ".join([*listed, *more])
        yield f"studies differ also in settings that are not shown ({' | '.join(by_study)}): {settings}"


def _short_averages(runs: Sequence[TrackedRun]) -> Iterable[str]:
    """The caveats about averages of weights that cover the whole training, each once."""
    averages = dict.fromkeys((setting(run, "training.ema"), setting(run, "training.steps")) for run in runs)
    return [caveat for decay, steps in averages if decay is not None for caveat in short_average(decay, steps)]


def _in_label(path: str, arm: Arm) -> bool:
    """Whether the label of an arm shows this setting, or a setting that contains it."""
    shown = [*arm.settings, *(STATED if PRESET in arm.settings else ())]
    return any(path == one or path.startswith(f"{one}.") for one in shown)


def _with_values(path: str, studies: Sequence[Mapping[str, set[str]]]) -> str:
    """A setting with its values in each study, if these are short."""
    values = " | ".join(", ".join(sorted(settings.get(path, ("unset",)))) for settings in studies)
    return f"{path} {values}" if len(values) <= MAX_VALUE_LENGTH else path


def _incomplete_confirmations(confirmed: Sequence[Confirmation]) -> Iterable[str]:
    by_trial: dict[tuple[str, int], list[Confirmation]] = {}
    for one in confirmed:  # a trial stands there once for each metric
        by_trial.setdefault((one.study, one.trial), []).append(one)
    lost = sum(max(one.lost for one in same) for same in by_trial.values())
    unfinished = sum(same[0].unfinished for same in by_trial.values())
    if lost:
        yield f"confirmations: {_runs(lost)} with fresh seeds ended without a finite value and {_are(lost)} left out"
    if unfinished:
        yield f"confirmations: {_runs(unfinished)} with fresh seeds had not ended and {_are(unfinished)} left out"


def _test_metrics(metrics: Sequence[str]) -> Iterable[str]:
    shown = [metric for metric in metrics if is_test(metric)]
    if shown:
        yield (
            f"test images: use {_listed(shown)} for final numbers only, never to choose between arms; so arms are not "
            "sorted by it, and differences are shown only against the arm that --against names"
        )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def as_lines(caveats: Sequence[str]) -> str:
    """The caveats for a terminal."""
    return "\n".join(f"! {caveat}" for caveat in caveats)
