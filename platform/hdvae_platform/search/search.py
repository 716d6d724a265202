"""The search of a study: which run is next, and what Optuna is told about the values of runs.

A trial is one parameter set. It is trained once for each seed, and its value is the mean over the seeds. Unfinished
runs are issued before new ones, so that an interrupted study continues where it stopped. With a pruner, the run of the
first seed is judged at each of its reports. If it is pruned, so is its trial, and the other seeds are not started.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hdvae_platform.display.text import counted
from hdvae_platform.search.optuna_study import OptunaStudy
from hdvae_platform.search.policy import (
    confirmations,
    is_prunable,
    not_finite,
    seeds_to_run,
    trainings_saved,
    trial_outcome,
)
from hdvae_platform.search.run_queue import RunQueue
from hdvae_platform.search.trials import Trial
from hdvae_platform.store.feasibility import means
from hdvae_platform.store.records import Kind, Records, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.constraints import excesses
from hdvae_platform.study.study import Study


@dataclass(frozen=True)
class Assignment:
    """One run to do: a trial with one seed.

    Attributes:
        trial: Optuna's trial number.
        seed: the seed.
        params: dotted paths into the experiment → values.
        attempt: the number of the attempt, counted up each time that the run is issued. No two processes get the same
            one, since only the newest launch may write to the database.
        kind: part of the search, or a confirmation of one of its best trials with a fresh seed.
    """

    trial: int
    seed: int
    params: dict[str, Any]
    attempt: int
    kind: Kind = "search"


class Search(RunQueue):
    """A queue of runs that refills itself with new trials, and at the end with confirmations of the best ones.

    Until `begin`, nothing is recorded that this launch wants otherwise than the one before: it may still be refused.

    Args:
        study: a checked study, recorded by `Records.define`.
        url: SQLAlchemy URL of the study database.
        records: the tables of runs in the same database.
        retry_failed: whether the runs that failed are issued again, from their checkpoints.
        newest: the newest attempt at a run (trial and seed) of which the storage knows.

    Raises:
        InputError: runs were trained with other parameters than Optuna has for their trial.
    """

    def __init__(
        self,
        study: Study,
        url: str,
        records: Records,
        *,
        retry_failed: bool = False,
        newest: Callable[[int, int], int] = lambda trial, seed: 0,
    ) -> None:
        super().__init__(study, records, lambda trial: self._optuna.params(trial), newest)
        known = records.study(study.name)
        assert known is not None
        self._begun = known.created
        self._optuna = OptunaStudy(study, url, {run.trial: run.params for run in self.runs()})
        if retry_failed:
            self._forget_failures()
        for trial in self._optuna.trials():
            self._take_up(trial)
        self._enqueue_left_confirmations()

    def begin(self) -> None:
        """Record what this launch changes: the runs that it adds or starts again, and the sets that are queued."""
        super().begin()
        if not self._has_begun_all_trials():
            self._optuna.enqueue_unknown()

    def next(self) -> Assignment | None:
        """Issue the next run and mark it as running; None if nothing is left to issue.

        Runs that wait in the queue come first, then a new trial, and after the last trial the confirmations.
        """
        self.begin()
        if not self._pending:
            if self._has_begun_all_trials():
                for trial, seed in self._confirmations_to_come():
                    self._enqueue(trial, [seed], "confirmation")
            else:
                self.check()
                self._open(self._optuna.ask())
        run = self._take()
        return None if run is None else self.assignment(run)

    def assignment(self, run: Run) -> Assignment:
        """The assignment of a run that was issued before."""
        params = self._optuna.params(run.trial) if run.params is None else dict(run.params)
        return Assignment(run.trial, run.seed, params, run.attempts, run.kind)

    def has_work(self) -> bool:
        """Whether `next` would return a run."""
        return bool(self._pending or not self._has_begun_all_trials() or self._confirmations_to_come())

    def is_done(self) -> bool:
        """Whether every run has ended and no further run will be issued."""
        return not (self.has_work() or any(run.unfinished for run in self.runs()))

    def total_runs(self) -> int:
        """The number of runs that the study will have in all, as far as is known."""
        target = 0 if self._has_begun_all_trials() else self._study.parameter_sets() or 0
        trials = max(target, self._optuna.started)
        searching = max(trials * len(self._study.seeds) - self._runs.spared, self._runs.count("search"))
        return searching + max(self._confirmations_of(trials), self._runs.count("confirmation"))

    def savings(self) -> str | None:
        """What pruning has saved, in a sentence; None without a pruner."""
        trials, pruner = self._optuna.trials(), self._study.search.pruner
        pruned = sum(trial.state == RunState.PRUNED for trial in trials)
        if pruner is None:
            return None
        saved = trainings_saved(self._study, trials)
        return f"{pruner.name} pruned {pruned} of {len(trials)} trials, which saved {saved:.1f} full trainings"

    def unconfirmed(self) -> str | None:
        """How many confirmations fell away since too few trials are feasible, in a sentence; None if none did."""
        trials = self._optuna.trials()
        lacking = self._study.confirmations(len(trials)) - len(confirmations(self._study, trials))
        if lacking <= 0 or not self._study.search.constraints:
            return None
        return f"{counted(lacking, 'confirmation')} fell away: too few trials are feasible"

    def report(self, trial: int, seed: int, step: int, *values: float | None) -> bool:
        """Give the pruner the metric that a run reported at a step; returns whether run and trial are pruned.

        Args:
            trial: of the run.
            seed: of the run.
            step: of the report.
            values: of the metrics that the search reads, in their order; None where the report has none.
        """
        run, (value, *others) = self._runs[trial, seed], values
        if not is_prunable(self._study, run, value):
            return False
        assert value is not None
        if not self._optuna.should_prune(trial, step, value):
            return False
        known = zip(self._study.search.measured[1:], others, strict=True)
        also = {metric: other for metric, other in known if other is not None and math.isfinite(other)}
        self._set(run, state=RunState.PRUNED, value=value, also=also, error=None)
        self._act_on_end(run)
        return True

    def finish(self, trial: int, seed: int, *values: float) -> Run:
        """Record that a run reached its last step; returns the run in its new state.

        Args:
            trial: its trial.
            seed: its seed.
            values: of the metrics that the search reads, in their order. One that is not finite makes the run a
                failure.
        """
        run, metrics = self._runs[trial, seed], dict(zip(self._study.search.measured, values, strict=True))
        error = not_finite(metrics)
        if error:
            self._set(run, state=RunState.FAIL, error=error)
        else:
            value = metrics.pop(self._study.search.metric)
            self._set(run, state=RunState.COMPLETE, value=value, also=metrics, error=None)
        self._act_on_end(run)
        return self._runs[trial, seed]

    def fail(self, trial: int, seed: int, error: str) -> None:
        """Record that a run failed."""
        self._set(self._runs[trial, seed], state=RunState.FAIL, error=error)
        self._act_on_end(self._runs[trial, seed])

    def _has_begun_all_trials(self) -> bool:
        """Whether no further trial will begin."""
        target = self._study.parameter_sets()
        hours_are_over = self._study.hours_are_over(self._begun, time.time())
        return hours_are_over or (target is not None and self._optuna.started >= target)

    def _confirmations_of(self, trials: int) -> int:
        """The number of confirmations among so many trials; exact once it is known how many of these are feasible."""
        if not self._study.search.constraints or self._runs.searching or not self._has_begun_all_trials():
            return self._study.confirmations(trials)
        return len(confirmations(self._study, self._optuna.trials()))

    def _confirmations_to_come(self) -> list[tuple[int, int]]:
        """The confirmations that are not recorded yet, once no run of the search is unfinished."""
        if self._runs.searching:
            return []
        return self._unknown(confirmations(self._study, self._optuna.trials()))

    def _take_up(self, trial: Trial) -> None:
        """Queue the runs of a trial that an earlier launch left unfinished; tell Optuna if the trial has ended."""
        if trial.optuna_state in (RunState.RUNNING, RunState.COMPLETE) or self._unfinished(trial.number):
            self._open(trial.number)
        if trial.optuna_state in (RunState.RUNNING, RunState.FAIL):
            self._tell_if_done(trial.number)

    def _open(self, trial: int) -> None:
        """Queue the runs of a trial that may start: with a pruner, at first only that of the first seed."""
        self._enqueue(trial, seeds_to_run(self._study, self._runs.find(trial, self._study.seeds[0])))

    def _act_on_end(self, run: Run) -> None:
        """After a run of the search ended, queue the other seeds of its trial; tell Optuna if the trial has ended."""
        if run.kind == "search":
            if self._runs[run.trial, run.seed].state == RunState.COMPLETE:
                self._open(run.trial)
            self._tell_if_done(run.trial)

    def _tell_if_done(self, trial: int) -> None:
        runs = self._runs.of(trial)
        if runs and not self._unfinished(trial):
            state, values = trial_outcome(self._study, runs)
            failed, constraints = state == RunState.FAIL, self._study.search.constraints
            self._optuna.tell(trial, state, values, {} if failed else excesses(constraints, means(self._study, runs)))
