"""What a reader of a comparison must know before believing it: said beside the numbers, never averaged away."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from hdvae.presets import STATED
from hdvae_platform.arms import Arm, label
from hdvae_platform.differences import ARMS
from hdvae_platform.provenance import described
from hdvae_platform.study import PRESET
from hdvae_platform.tracking import TrackedRun

MEASURED = ("evaluation.",)
"""Beginnings of the settings on which the meaning of a metric's name depends."""
OWN = ("evaluation.every",)
"""Those of them on which it does not."""
NAMED = 4
"""Settings that are named where studies differ in more."""
SHORT = 40
"""Characters of the values of a setting that are shown beside its name."""


def marks(compared: Sequence[Arm], metrics: Sequence[str]) -> list[str]:
    """One line for each thing that makes arms less comparable than they look.

    Args:
        compared: the arms.
        metrics: full names of what is shown.
    """
    runs = [run for arm in compared for run in arm.runs]
    found = [*_unfinished(compared), *_lacking(compared, metrics), *_seeds(compared)]
    found += _mixed(runs, "code", _code)
    found += _mixed(runs, "data", lambda run: f"checksum {run.tags.get('hdvae.data_checksum', '')[:8] or 'unknown'}")
    return [*found, *_measured(runs), *_studies(compared), *_tested(compared, metrics)]


def left_out(compared: Sequence[Arm], kept: Sequence[Arm], path: str) -> list[str]:
    """The mark of runs that say nothing of a trend in a setting, by study; none where all do.

    Args:
        compared: the arms.
        kept: the same with the runs that entered the trend.
        path: the setting.
    """
    by_study = Counter(run.tags["hdvae.study"] for arm in compared for run in arm.runs)
    total = by_study.total()
    by_study.subtract(run.tags["hdvae.study"] for arm in kept for run in arm.runs)
    if not by_study.total():
        return []
    named = ", ".join(f"{count} of {study}" for study, count in by_study.items() if count)
    why = f"no run differs from them in {path} alone, or they lack the metric"
    return [f"left out: {by_study.total()} of {total} runs are not in the trend ({named}), since {why}"]


def _unfinished(compared: Sequence[Arm]) -> Iterable[str]:
    count = sum(arm.unfinished for arm in compared)
    if count:
        yield f"unfinished: {_runs(count)} had not ended and {'is' if count == 1 else 'are'} left out"
    empty = [arm for arm in compared if not arm.runs]
    if empty:
        have = "has" if len(empty) == 1 else "have"
        yield f"empty: {len(empty)} of {len(compared)} arms {have} no complete run, the first is {label(empty[0].arm)}"


def _lacking(compared: Sequence[Arm], metrics: Sequence[str]) -> Iterable[str]:
    for metric in metrics:
        runs = [run for arm in compared for run in arm.runs]
        missing = sum(metric not in run.metrics for run in runs)
        wild = sum(not math.isfinite(run.metrics.get(metric, 0.0)) for run in runs)
        if missing and missing < len(runs):
            yield f"missing: {metric} in {missing} of {len(runs)} runs, which its means leave out"
        if wild:
            yield f"not finite: {metric} in {wild} of {len(runs)} runs, which its means leave out"


def _seeds(compared: Sequence[Arm]) -> Iterable[str]:
    held = [sorted(arm.seeds) for arm in compared if arm.runs]
    if any(set(seeds) != set(held[0]) for seeds in held):
        yield "seeds: arms differ in their seeds; pairs are made of those that two arms share, if most are"
    elif any(len(set(Counter(seeds).values())) > 1 for seeds in held):
        yield "seeds: an arm pools parameter sets of which some lack a seed, so its seeds' means are of different sets"


def _code(run: TrackedRun) -> str:
    keys = {"version": "hdvae.version", "sources": "hdvae.sources", "commit": "mlflow.source.git.commit"}
    known = {key: run.tags[tag] for key, tag in keys.items() if tag in run.tags}
    if not {"version", "sources"} <= known.keys():
        return "an unknown version"
    return described({**known, "dirty": run.tags.get("hdvae.git_dirty", "false")})


def _mixed(runs: Sequence[TrackedRun], what: str, of: Callable[[TrackedRun], str]) -> Iterable[str]:
    counted = Counter(map(of, runs))
    if len(counted) > 1:
        yield f"mixed {what}: " + "; ".join(f"{_runs(count)} with {one}" for one, count in counted.most_common())


def _measured(runs: Sequence[TrackedRun]) -> Iterable[str]:
    """Settings under which one name means several things."""
    seen: dict[str, set[str]] = {}
    for run in runs:
        for path, value in run.params.items():
            if path.startswith(MEASURED) and path not in OWN:
                seen.setdefault(path, set()).add(value)
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
                held.setdefault(run.tags["hdvae.study"], {}).setdefault(path, set()).add(text)
        unsaid.update(path for path in {path for run in arm.runs for path in run.params} if not _said(path, arm))
    if len(held) < 2:
        return
    paths = dict.fromkeys(path for settings in held.values() for path in settings)
    differing = [
        path
        for path in paths
        if path in unsaid and path != "seed" and not path.startswith(MEASURED)
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


def _tested(compared: Sequence[Arm], metrics: Sequence[str]) -> Iterable[str]:
    shown = [metric for metric in metrics if metric.startswith("test/")]
    if shown:
        yield (
            f"final: {', '.join(shown)} may close a comparison and never make a choice: "
            "arms stay in the study's order, and are only compared with the one that --against names"
        )
    if sum(bool(arm.runs) for arm in compared) > ARMS:
        yield f"many: more than {ARMS} arms: for differences use --by, --where or --against"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"


def as_lines(found: Sequence[str]) -> str:
    """The marks for a terminal."""
    return "\n".join(f"! {one}" for one in found)
