"""Reads the arms of studies from MLflow.

Only complete runs enter means; pruned, failed and unfinished runs are counted. Runs are read page by page, and only the
metrics that are asked for stay in memory: a study may have ten thousand runs.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.run_settings import Condition, setting, varied_in
from hdvae_platform.store.feasibility import MEASURED
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import is_feasible
from hdvae_platform.study.space import set_key
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import OWN_TAGS, Tag
from hdvae_platform.tracking.study_run import search_runs, study_names, study_run

MAX_VALUES_NAMED = 8
"""Values of a setting that an error message lists."""


def read_arms(
    client: Client,
    studies: Sequence[str],
    by: Sequence[str] = (),
    where: Sequence[Condition] = (),
    required: Collection[str] = (),
    kept: Collection[str] = (),
) -> list[Arm]:
    """The arms of one or more studies, in the order of the studies and their trials.

    Args:
        client: connection to MLflow.
        studies: names.
        by: dotted paths to group runs by; by default everything that the study varied.
        where: conditions on the settings of a run to be included.
        required: full names of metrics that at least one run must have.
        kept: further metrics to keep of each run. If `required` and `kept` are empty, all metrics are kept.

    Raises:
        InputError: MLflow does not know a study, no run of it is complete, or no run has a given path or metric.
    """
    metrics, studies = {*required, *kept}, list(dict.fromkeys(studies))
    arms: dict[str, Arm] = {}
    seen, order = _Seen(), dict[str, tuple[int, int]]()
    judges = {study: _Judge(client, study) for study in studies}
    for place, study in enumerate(studies):
        for run in _search_runs(client, study):
            judges[study].add(run)
            seen.add(run, [*by, *(one.path for one in where)])
            if all(one.holds(run) for one in where):
                settings = _arm_settings(run, by) | ({"study": study} if len(studies) > 1 else {})
                key, at = set_key(settings), (place, run.trial)
                order[key] = min(order.get(key, at), at)
                _add_run(arms.setdefault(key, Arm(settings)), _trimmed(run, metrics))
    seen.check(by, where, required)
    if not arms:
        raise InputError(f"no run has {seen.values_instead_of(where)}")
    for arm in arms.values():
        if len(arm.trials) == 1:
            ((study, trial),) = arm.trials
            arm.feasible = judges[study].is_feasible(trial)
    return _with_complete_runs([arms[key] for key in sorted(arms, key=order.__getitem__)], studies)


def _search_runs(client: Client, study: str) -> Iterator[TrackedRun]:
    """The runs of a study's search."""
    runs = search_runs(client, study)
    first = next(runs, None)
    if first is None:
        raise InputError(f"no study {study} in MLflow at {client.address}{nearest(study, study_names(client))}")
    yield first
    yield from runs


class _Judge:
    """Which trials of a study keep the constraints of its search: by their means over the seeds.

    The last report of a pruned run counts.
    """

    def __init__(self, client: Client, study: str) -> None:
        parent = study_run(client, study)
        self._constraints = {} if parent is None else parent.constraints
        self._values: dict[int, list[dict[str, float]]] = {}

    def add(self, run: TrackedRun) -> None:
        if self._constraints and run.state in MEASURED:
            kept = {metric: run.metrics.get(metric, math.nan) for metric in self._constraints}
            self._values.setdefault(run.trial, []).append(kept)

    def is_feasible(self, trial: int) -> bool | None:
        rows = self._values.get(trial)
        if rows is None:
            return None
        means = {metric: statistics.fmean(row[metric] for row in rows) for metric in self._constraints}
        return is_feasible(self._constraints, means)


class _Seen:
    """The settings and metrics of all runs seen, to check that those asked for exist."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._metrics: set[str] = set()
        self._values: dict[str, Counter[str]] = {}

    def add(self, run: TrackedRun, asked: Sequence[str]) -> None:
        self._paths.update(run.params, varied_in(run))
        self._metrics.update(run.metrics)
        for path in asked:
            self._values.setdefault(path, Counter())[json.dumps(setting(run, path))] += 1

    def check(self, by: Sequence[str], where: Sequence[Condition], metrics: Collection[str]) -> None:
        for option, path in [*(("--by", path) for path in by), *(("--where", one.path) for one in where)]:
            if path not in self._paths and set(self._values[path]) == {"null"}:
                ending = sorted(known for known in self._paths if known.endswith(f".{path}"))
                if ending:
                    raise InputError(f"{option} {path}: which of {', '.join(ending)}?")
                raise InputError(f"{option} {path}: no such setting{nearest(path, self._paths)}")
        for metric in metrics:
            if metric not in self._metrics:
                raise InputError(f"no run has the metric {metric}{self._hint(metric)}")

    def _hint(self, metric: str) -> str:
        if metric.startswith("test/") and not any(known.startswith("test/") for known in self._metrics):
            return ": no run was evaluated on test images yet; `hdvae evaluate RUN` does that"
        return nearest(metric, self._metrics)

    def values_instead_of(self, where: Sequence[Condition]) -> str:
        """The conditions, each with the values that runs have instead."""
        known = {one.path: self._values[one.path].most_common(MAX_VALUES_NAMED) for one in where}
        return "; ".join(f"{one} (runs have {', '.join(value for value, _ in known[one.path])})" for one in where)


def _arm_settings(run: TrackedRun, by: Sequence[str]) -> dict[str, Any]:
    return {path: setting(run, path) for path in by} if by else varied_in(run)


def _trimmed(run: TrackedRun, kept: Collection[str]) -> TrackedRun:
    """The run with the metrics to keep; strings that many runs share are stored once."""
    metrics = {sys.intern(name): value for name, value in run.metrics.items() if not kept or name in kept}
    params = {sys.intern(path): sys.intern(value) for path, value in run.params.items()}
    tags = {
        sys.intern(key): sys.intern(value)
        for key, value in run.tags.items()
        if key.startswith(OWN_TAGS) or key == Tag.COMMIT
    }
    return replace(run, tags=tags, params=params, metrics=metrics)


def _add_run(arm: Arm, run: TrackedRun) -> None:
    state = run.state
    arm.trials.add((run.study, run.trial))
    arm.pruned += state == RunState.PRUNED
    arm.failed += state == RunState.FAIL
    if state == RunState.COMPLETE:
        arm.runs.append(run)
    arm.unfinished += state is None or not state.is_terminal


def _with_complete_runs(arms: list[Arm], studies: Sequence[str]) -> list[Arm]:
    """The arms with their runs in order; refused where no run is complete."""
    if not any(arm.runs for arm in arms):
        raise InputError(f"no run of {', '.join(studies)} is complete yet: `hdvae study status {studies[0]}`")
    for arm in arms:
        arm.runs.sort(key=lambda run: (run.trial, run.seed))
    return arms
