"""The status of a study, from the study database and the storage, while it runs and after."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hdvae_platform.search.policy import confirmations, trainings_saved
from hdvae_platform.search.trials import Trial, known_trials
from hdvae_platform.store.feasibility import feasible_trials
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import handle, run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, Run, StudyRecord
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.run_summary import RunSummary, read_summary
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.study import Study

State = Literal["running", "interrupted", "finished", "deleting"]


@dataclass(frozen=True)
class StudyState:
    """A study as a whole, as far as the study database alone knows it.

    Attributes:
        study: its name.
        claim: what it claims.
        state: running: a driver is at work; interrupted: `hdvae study run` would resume it; finished: nothing to do;
            deleting: its deletion was interrupted, and `hdvae study delete` ends it.
        total: the number of all runs, as far as it is known.
        runs: every run that is known, and the parameters of its trial, in the order of trials and seeds.
        trainings_saved: how many full trainings pruning has saved; None without a pruner.
        feasible: trial → whether it keeps the constraints of the search, once it has values; empty without constraints.
    """

    study: str
    claim: str
    state: State
    total: int
    runs: Sequence[tuple[Run, dict[str, Any]]]
    trainings_saved: float | None
    feasible: Mapping[int, bool]

    def count(self, state: RunState) -> int:
        """How many runs are in a state."""
        return sum(run.state == state for run, _ in self.runs)

    @property
    def complete(self) -> int:
        """How many runs are complete."""
        return self.count(RunState.COMPLETE)

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return self.count(RunState.FAIL)

    @property
    def pruned(self) -> int:
        """How many runs were pruned."""
        return self.count(RunState.PRUNED)

    def summary(self) -> dict[str, Any]:
        """Counts only."""
        counts = {"complete": self.complete, "pruned": self.pruned, "failed": self.failed, "runs": self.total}
        return {"study": self.study, "claim": self.claim, "state": self.state, **counts}


@dataclass(frozen=True)
class StudyStatus(StudyState):
    """The same with what the storage knows of the runs.

    Attributes:
        trials: a row for each run, of JSON-like values.
    """

    trials: list[dict[str, Any]]

    def count(self, state: RunState) -> int:
        """How many runs are in a state; without a driver none is running."""
        return sum(row["state"] == state for row in self.trials)

    def plain(self) -> dict[str, Any]:
        """The status as JSON-like values."""
        saved = {"trainings_saved": self.trainings_saved}
        return {"study": self.study, "state": self.state, **saved, "trials": self.trials}


def study_state(places: Places, record: StudyRecord) -> StudyState:
    """The state of a recorded study. The storage is not asked: it may be away, and a study may have many runs."""
    study = record.as_study()
    return state_of(study, record, Records(places.database).runs(record.name), known_trials(study, places.database))


def state_of(study: Study, record: StudyRecord, runs_known: Sequence[Run], trials: Sequence[Trial]) -> StudyState:
    """The state of a recorded study with these runs and trials, as the study database has them."""
    known = {(run.trial, run.seed): run for run in runs_known}
    spent = study.hours_are_over(record.created, time.time())
    trials = [trial for trial in trials if trial.state != RunState.WAITING or not spent]
    begun: dict[int, set[int]] = {}
    for number, seed in known:
        begun.setdefault(number, set()).add(seed)
    runs = []
    for trial in trials:
        seeds = begun.pop(trial.number, set())
        if trial.state not in (RunState.FAIL, RunState.PRUNED):  # such a trial gets no further seeds
            seeds |= set(study.seeds)
        for seed in sorted(seeds):
            run = known.get((trial.number, seed)) or Run.fresh(trial.number, seed)
            runs.append((run, trial.params if run.params is None else dict(run.params)))
    for number, seeds in begun.items():  # Optuna does not know these trials any more
        runs += [(known[number, seed], dict(known[number, seed].params or {})) for seed in sorted(seeds)]
    total = len(runs) + _to_come(study, trials, known, spent)
    ended = sum(run.state.is_terminal for run, _ in runs)
    state: State = "finished" if ended >= total else "interrupted"
    if record.deleting or record.driven:
        state = "deleting" if record.deleting else "running"
    saved = None if study.search.pruner is None else trainings_saved(study, trials)
    feasible = feasible_trials(study, list(known.values())) if study.search.constraints else {}
    return StudyState(record.name, study.claim, state, total, runs, saved, feasible)


def study_status(places: Places, record: StudyRecord, say: Callable[[str], None] = lambda line: None) -> StudyStatus:
    """The status of a recorded study; `say` is called with a line for each damaged file, which is passed over."""
    study, storage, found = record.as_study(), Storage(places.storage, say=say), study_state(places, record)
    rows = [
        {**_row(study, storage, run, params, record.driven), "feasible": found.feasible.get(run.trial)}
        for run, params in found.runs
    ]
    return StudyStatus(**vars(found), trials=rows)


def _to_come(study: Study, trials: Sequence[Trial], runs: Mapping[tuple[int, int], Run], spent: bool) -> int:
    """How many runs are not recorded yet: those of further trials, and confirmations."""
    target = study.parameter_sets()
    further = 0 if spent else 1 if target is None else max(target - len(trials), 0)
    if further or any(not trial.state.is_terminal for trial in trials):
        return further * len(study.seeds) + study.confirmations(len(trials) + further)
    return sum(key not in runs for key in confirmations(study, trials))


def _row(study: Study, storage: Storage, run: Run, params: dict[str, Any], driven: bool) -> dict[str, Any]:
    """The row of a run. Without a driver no run is running: it waits to be resumed."""
    summary, left = _summary(study, storage, run, params, driven)
    folder = run_folder(study.name, run.trial, run.seed)
    return {
        "handle": handle(study.name, run.trial, run.seed),
        "number": run.trial,
        "state": RunState.WAITING if run.state == RunState.RUNNING and not driven else run.state,
        "params": params,
        "seed": run.seed,
        "kind": run.kind,
        "step": summary.step,
        "attempts": run.attempts,
        "error": run.error,
        "checkpoint": summary.checkpoint and storage.address(f"{folder}/{summary.checkpoint}"),
        "best_checkpoint": summary.best_checkpoint and storage.address(f"{folder}/{summary.best_checkpoint}"),
        "images_per_second": summary.costs.get("train/images_per_second"),
        "memory_peak_mb": summary.costs.get("system/memory_peak_mb"),
        "gpu_memory_peak_mb": summary.costs.get("system/gpu_memory_peak_mb"),
        "gpu_utilization_percent": summary.costs.get("system/gpu_utilization_percent"),
        "seconds_left": left,
        "run_id": run.run_id,
        "started_from": None if study.source is None else handle(*study.source, run.seed),
    }


def _summary(
    study: Study, storage: Storage, run: Run, params: dict[str, Any], driven: bool
) -> tuple[RunSummary, float | None]:
    """How far a run is, and the seconds that it still takes if it is running; of ended runs the database knows it."""
    kept = RunSummary(**(run.summary or {"attempts": 0}))
    if run.attempts == kept.attempts and (run.state.is_terminal or not run.attempts):
        return kept, None
    goal = Goal(study.search.metric, study.search.direction)
    summary, journal = read_summary(storage, run_folder(study.name, run.trial, run.seed), run.attempts, goal)
    running = run.state == RunState.RUNNING and driven
    return summary, _seconds_left(journal, run, study.experiment_at(params).training.steps) if running else None


def _seconds_left(journal: Journal, run: Run, steps: int) -> float | None:
    """Seconds until the last step, at the pace of this attempt's reports; None before it has made two."""
    own = journal.steps_by(run.attempts)
    if len(own) < 2:
        return None
    ends = list(journal.readable([own[0], own[-1]]).values())
    if len(ends) < 2:
        return None
    first, last = ends
    pace = (last.time - first.time) / 1000 / (last.step - first.step)
    return max(0.0, (steps - last.step) * pace - (time.time() - last.time / 1000))
