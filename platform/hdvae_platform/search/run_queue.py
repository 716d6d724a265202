"""The runs of a study with their present states, and the queue of those that wait to be started."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hdvae_platform.search.run_table import RunTable
from hdvae_platform.store.records import Kind, Records, Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.run_summary import RunSummary
from hdvae_platform.study.study import Study

MAX_DEATHS = 3
"""At this many deaths of its process without a report in between, a run has failed."""


class RunQueue:
    """The runs of a study: each change of their states goes to the study database first, once the launch has begun.

    A run that an earlier launch left as running has lost its process, so it waits again.

    Args:
        study: a checked study, recorded by `Records.define`.
        records: the tables of runs.
        params: the parameters of a trial.
        newest: the newest attempt at a run of which the storage knows; the database may have been restored from a
            backup since.
    """

    def __init__(
        self,
        study: Study,
        records: Records,
        params: Callable[[int], Mapping[str, Any]],
        newest: Callable[[int, int], int],
    ) -> None:
        self._study, self._records, self._params, self._newest = study, records, params, newest
        left = [_waiting(run) for run in records.runs(study.name)]
        self._runs = RunTable(study.seeds, study.search.pruner is not None, left)
        self._pending: deque[tuple[int, int]] = deque()
        self._deaths: Counter[tuple[int, int]] = Counter()
        self._to_record: deque[Callable[[], object]] | None = deque()  # None once the launch has begun

    def begin(self) -> None:
        """Record what this launch changes: until now it could be refused. `Search.next` calls this too."""
        while self._to_record:
            self._to_record[0]()
            self._to_record.popleft()
        self._to_record = None

    def runs(self) -> list[Run]:
        """All known runs, with their present states."""
        return self._runs.all()

    def run(self, trial: int, seed: int) -> Run:
        """A run, with its present state."""
        return self._runs[trial, seed]

    def check(self) -> None:
        """Check that this driver still holds the study.

        Raises:
            Fenced: another has taken it.
        """
        self._records.check(self._study.name)

    def interrupt(self, trial: int, seed: int) -> Run:
        """Record that a run was interrupted: unless it has ended, it waits again. Returns the run as it is then."""
        if self._runs[trial, seed].state == RunState.RUNNING:
            self._set(self._runs[trial, seed], state=RunState.WAITING)
        return self._runs[trial, seed]

    def reissue(self, trial: int, seed: int) -> None:
        """Queue a run again that was interrupted through no fault of its own."""
        self.interrupt(trial, seed)
        self._pending.append((trial, seed))

    def retry(self, trial: int, seed: int) -> bool:
        """Queue a run again whose process died, unless it died too often; returns whether the run is queued."""
        self._deaths[trial, seed] += 1
        if self._deaths[trial, seed] >= MAX_DEATHS:
            return False
        self.reissue(trial, seed)
        return True

    def progressed(self, trial: int, seed: int) -> None:
        """Forget earlier deaths of a run's process, because the run has reported."""
        del self._deaths[trial, seed]

    def note(self, trial: int, seed: int, error: str) -> None:
        """Record what went wrong with a run that continues; the note stays until the run is complete."""
        self._set(self._runs[trial, seed], error=error)

    def summarise(self, trial: int, seed: int, summary: RunSummary) -> None:
        """Record how far a run came that has ended."""
        self._set(self._runs[trial, seed], summary=summary.plain())

    def _take(self) -> Run | None:
        """Take the next run from the queue and mark it as running; None if the queue is empty."""
        if not self._pending:
            return None
        run = self._runs[self._pending.popleft()]
        attempts = max(run.attempts, self._newest(run.trial, run.seed)) + 1
        self._set(run, state=RunState.RUNNING, attempts=attempts)
        return self._runs[run.trial, run.seed]

    def _enqueue(self, trial: int, seeds: Sequence[int], kind: Kind = "search") -> None:
        """Record the runs of a trial with these seeds that are new, and queue those that are WAITING."""
        for seed in seeds:
            if (trial, seed) not in self._runs:
                described = (self._study.name, trial, seed, kind, self._params(trial))
                run = self._records.fresh_run(*described)
                self._record(partial(self._records.add_run, *described))
                self._runs.put(run)
            if self._runs[trial, seed].state == RunState.WAITING and (trial, seed) not in self._pending:
                self._pending.append((trial, seed))

    def _enqueue_left_confirmations(self) -> None:
        """Queue the confirmations that an earlier launch left unfinished; those that had begun come first."""
        left = [run for run in self.runs() if run.kind == "confirmation" and run.unfinished]
        for run in sorted(left, key=lambda run: run.attempts == 0):
            self._enqueue(run.trial, [run.seed])

    def _forget_failures(self) -> None:
        """Have the runs that failed wait again."""
        for run in self.runs():
            if run.state == RunState.FAIL:
                self._set(run, state=RunState.WAITING, error=None, tracked=False)

    def _unfinished(self, trial: int) -> bool:
        return any(run.unfinished for run in self._runs.of(trial))

    def _unknown(self, runs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
        return [key for key in runs if key not in self._runs]

    def _set(self, run: Run, **values: Any) -> None:
        self._record(partial(self._records.set_run, self._study.name, run.trial, run.seed, **values))
        self._runs.put(replace(run, **values))

    def _record(self, write: Callable[[], object]) -> None:
        if self._to_record is None:
            write()
        else:
            self._to_record.append(write)


def _waiting(run: Run) -> Run:
    return replace(run, state=RunState.WAITING) if run.state == RunState.RUNNING else run
