"""Contents of reports with known numbers, without a study behind them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from hdvae.config import parse
from hdvae_platform.analysis.answers import answer_of
from hdvae_platform.analysis.arms import Arm
from hdvae_platform.analysis.confirmation import Confirmation
from hdvae_platform.analysis.labels import label
from hdvae_platform.analysis.looks import Look
from hdvae_platform.analysis.metric_names import BIAS, ELBO
from hdvae_platform.analysis.verdicts import verdicts
from hdvae_platform.report.arm_report import ArmReport, best_arms
from hdvae_platform.report.contents import Contents
from hdvae_platform.running.status import StudyStatus
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import Study
from hdvae_platform.tracking.client import TrackedRun

PLAIN = {
    "name": "made",
    "claim": "Made up.",
    "experiment": {
        "data": {"name": "mnist5k"},
        "model": {"layers": [{"variables": 4, "classes": 16}]},
        "training": {"steps": 100, "temperature": 0.5},
    },
}


def contents(space, sets, numbers, *, curves=None, importances="not asked", search=None, expect=(), feasible=None):
    """A report's contents: parameter sets, and for each its metrics by seed, and whether it is feasible."""
    plain = {**PLAIN, "space": space, "search": search or {"method": "grid"}, "expect": list(expect)}
    study = parse(Study, plain, "made")
    arms = []
    for i, (params, seeds) in enumerate(zip(sets, numbers, strict=True)):
        tags = {
            "hdvae.study": "made",
            "hdvae.trial": str(i),
            "hdvae.arm": json.dumps(params),
            "hdvae.sources": "0" * 64,
            "hdvae.version": "1",
        }
        runs = [
            TrackedRun(f"run-{i}-{seed}", "FINISHED", {**tags, "hdvae.seed": str(seed)}, {}, metrics, 60.0)
            for seed, metrics in enumerate(seeds)
        ]
        held = Arm(params, runs, trials={("made", i)}, feasible=feasible and feasible(i))
        arm = ArmReport(str(i), i, label(params), held, study.experiment_at(params))
        arm.curves = {run.run_id: (curves or {}).get(i, {}) for run in runs}
        arms.append(arm)
    kept = best_arms(arms, study)
    status = StudyStatus("made", "Made up.", "finished", 0, [], trainings_saved=None, feasible={}, trials=[])
    for arm in arms:
        for run, seed in zip(arm.arm.runs, arm.arm.seeds, strict=True):
            row = {"number": arm.place, "seed": seed, "state": "COMPLETE", "kind": "search", "error": None}
            status.trials.append({**row, "params": arm.arm.settings, "run_id": run.run_id})
    status = replace(status, total=len(status.trials))
    tracked = {run.run_id: run for arm in kept for run in arm.arm.runs}
    return Contents(
        study=study,
        places=Places(Path("/home"), "sqlite://", "http://me:secret@host:5000", None, "/storage"),
        status=status,
        arms=kept,
        total_arms=len(arms),
        not_begun=0,
        sent=0,
        unsent=0,
        trials={arm.place: arm.name for arm in kept},
        tracked=tracked,
        pages={run_id: f"http://host:5000/#/experiments/1/runs/{run_id}" for run_id in tracked},
        parent=None,
        confirmed=[],
        verdicts=verdicts(study.expect, [arm.arm for arm in arms], lambda *_: Look(1)),
        restated=None,
        importances=importances,
        pruned=[],
        answer=answer_of(study, list(_runs(study, sets, numbers)), finished=True),
        images=None,
    )


def _runs(study, sets, numbers):
    """The complete runs as the study database has them, with their parameters."""
    for trial, (params, seeds) in enumerate(zip(sets, numbers, strict=True)):
        for seed, metrics in enumerate(seeds):
            if all(math.isfinite(metrics.get(metric, math.nan)) for metric in study.search.measured):
                also = {metric: metrics[metric] for metric in study.search.measured[1:]}
                value = metrics[study.search.metric]
                yield Run(trial, seed, RunState.COMPLETE, 1, value, None, None, True, "search", also), params


def biased(elbo, bias):
    """The metrics of a run with a bias."""
    return {ELBO: elbo, "valid/surrogate_elbo": elbo + bias, BIAS: bias}


def widths(count, seeds=2, **more):
    """As many arms, each better than the one before, and with more bias."""
    sets = [{"model.width": i + 1} for i in range(count)]
    numbers = [[biased(-100.0 + i + 0.01 * s * i, 0.1 * i + 0.001 * s) for s in range(seeds)] for i in range(count)]
    return contents(
        {"model.width": {"low": 1, "high": 1000}}, sets, numbers, search={"method": "random", "trials": 9}, **more
    )


OF_TRIAL_1 = {"hdvae.study": "made", "hdvae.trial": "1", "hdvae.sources": "f" * 64}
WINNER = Confirmation(
    "made",
    1,
    {"model.width": 2},
    ELBO,
    -90.0,
    [
        TrackedRun(run_id, "FINISHED", {**OF_TRIAL_1, "hdvae.seed": str(seed)}, {}, {ELBO: value}, 60.0)
        for run_id, seed, value in (("a", 7, -91.0), ("b", 8, -93.0))
    ],
    0,
    0,
    1,
)


def unfinished():
    """An arm with three seeds, one that has two of them, one of which no run is complete, and one not begun."""
    found = contents(
        {"model.width": {"choices": [1, 2, 3]}},
        [{"model.width": 1}, {"model.width": 2}, {"model.width": 3}],
        [[{ELBO: -1.0}, {ELBO: -3.0}, {ELBO: -8.0}], [{ELBO: -2.0}, {ELBO: -4.5}], []],
    )
    waiting = {"state": "WAITING", "kind": "search", "error": None, "run_id": None}
    rows = [(1, 2, 2), (2, 0, 3), (2, 1, 3), (2, 2, 3), (3, 0, 4), (3, 1, 4), (3, 2, 4)]
    for trial, seed, width in rows:
        found.status.trials.append({**waiting, "number": trial, "seed": seed, "params": {"model.width": width}})
    status = replace(found.status, state="interrupted", total=len(found.status.trials))
    return replace(found, status=status, not_begun=1)


def drawn_again(sets, numbers):
    """The same, where a search drew every parameter set twice: each run has a bit-identical copy."""
    found = contents({"model.width": {"low": 1, "high": 99}}, sets, numbers, search={"method": "random", "trials": 9})
    for arm in found.arms:
        arm.arm.runs.extend(replace(run, run_id=f"{run.run_id}-again") for run in list(arm.arm.runs))
    return replace(found, tracked={run.run_id: run for arm in found.arms for run in arm.arm.runs})


def expecting(*expect, numbers):
    """Two arms by width, and what is expected of them."""
    sets = [{"model.width": 1}, {"model.width": 2}]
    return contents({"model.width": {"choices": [1, 2]}}, sets, numbers, expect=expect)
