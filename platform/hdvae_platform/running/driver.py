"""What happens to the runs of a study in the process that drives it, as Tune tells it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae_platform.running.progress import Progress
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import ATTEMPTS, Assignment, Search
from hdvae_platform.store.attempts import Attempt, Fenced
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import error_file, run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.study import Study
from hdvae_platform.training.run import RunSpec
from hdvae_platform.training.worker_group import KILLED

Echo = Callable[[str], None]
SILENCE = 30.0
"""Seconds without a word from a run that was to start, after which that is said."""
GRACE = 20.0
"""Seconds for runs to end the step under way and keep what they did, when the study stops. Clusters often give 30."""


class Driver:
    """Everything that happens to a study's runs, told by Tune in the driver process.

    It joins the search (what next), the records (what is known), the tracking (what people read) and the
    progress (what is printed).

    Attributes:
        stop: set, here or by the heartbeat, when no more is to be done: asked for, interrupted, or because of `fault`.
        fault: a fault of the driver's own, raised once Tune has let go.
        elsewhere: whether runs may be on other machines than this one.
        slots: how many workers the machines have room for, as they are now.
        interrupted: whether a signal came.
        hurried: whether one came when the study was stopping already: runs are not waited for any more.
    """

    def __init__(
        self,
        study: Study,
        places: Places,
        search: Search,
        tracking: StudyTracking,
        stop: threading.Event,
        echo: Echo,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.study, self.places, self.search, self.tracking, self.stop = study, places, search, tracking, stop
        self.storage = Storage(places.storage, places.patience, echo)
        self.fault: Exception | None = None
        self.elsewhere = False
        self.slots: Callable[[], int] = lambda: study.resources.concurrent * study.resources.min_workers
        ended = sum(run.state.is_terminal for run in search.runs())
        steps = study.experiment.training.steps
        self.progress = Progress(study.search.metric, steps, search.total_runs(), ended, echo, clock)
        self.interrupted = self.hurried = False
        self._clock = clock
        self._live: dict[str, Assignment] = {}
        self._workers: dict[str, int] = {}
        self._silent: dict[str, float] = {}
        self._limit: float | None = None

    def next_config(self, trial_id: str) -> dict[str, Any] | None:
        """The spec of the next run, or None if none is to be started now."""
        resources = self.study.resources
        while not self.stop.is_set() and resources.has_room(self._free(), len(self._live)):
            assignment = self.search.next()
            if assignment is None:
                return None
            try:
                experiment = self.study.experiment_at(assignment.params)
            except InputError as fault:  # parameters that are valid one by one, but not together
                self.search.fail(assignment.trial, assignment.seed, str(fault))
                self.progress.ended(_name(assignment), f"FAILED: {fault}")
                continue
            workers = resources.workers_in(self._free(), len(self._live), experiment.training.batch_size)
            self._attempt(assignment).begin()
            self.storage.delete_file(self._error_file(assignment))  # of an earlier attempt
            self.tracking.begin(assignment, experiment, new=assignment.attempt == 1)
            self._live[trial_id], self._workers[trial_id] = assignment, workers
            self._silent[trial_id] = self._clock()
            self.progress.expect(self.search.total_runs())
            self.progress.began(_name(assignment), 0)
            return self._spec(assignment, experiment, workers).plain()
        return None

    def _free(self) -> int:
        """Room for so many workers is not this study's yet; whether others use it is not known."""
        return self.slots() - sum(self._workers[trial_id] for trial_id in self._live)

    def watch(self) -> None:
        """Say once of a run that nothing was heard of it; why is not known: to Tune it is pending until it is up."""
        for trial_id, since in list(self._silent.items()):
            if trial_id not in self._live:
                del self._silent[trial_id]
            elif self._clock() - since > SILENCE:
                del self._silent[trial_id]
                name = _name(self._live[trial_id])
                self.progress.say(f"nothing heard of {name} for {SILENCE:.0f} s: it waits for room, or starts slowly")

    def is_over(self) -> bool:
        """Whether no further run will be started; one that runs may yet have to be started again."""
        return self.stop.is_set() or not (self._live or self.search.has_work())

    def ends_all(self) -> bool:
        """Whether Tune is to end what still runs. When the study stops, runs have some time to do so themselves."""
        if not self.stop.is_set():
            return False
        if self._limit is None:
            self._limit = time.monotonic() + GRACE
            self._ask_to_end()
        return self.hurried or not self._live or time.monotonic() > self._limit

    def _ask_to_end(self) -> None:
        requests = Storage(self.places.storage)
        for assignment in self._live.values():
            with contextlib.suppress(StorageAway, Fenced):  # nothing can be kept then, or it is another driver's
                Attempt(requests, self._folder(assignment), assignment.attempt).ask_to_end()

    def prunes(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a run that has reported is stopped for it; asked before `reported`, which is called all the same."""
        assignment = self._live.get(trial_id)
        if assignment is None or "metrics" not in result:
            return False
        value = result["metrics"].get(self.study.search.metric)
        return self.search.report(assignment.trial, assignment.seed, result["step"], value)

    def reported(self, trial_id: str, result: dict[str, Any]) -> None:
        """A run sent word."""
        assignment = self._live[trial_id]
        self._silent.pop(trial_id, None)
        if "warning" in result:
            if result.get("lasting"):
                self.search.note(assignment.trial, assignment.seed, result["warning"])
            self.progress.say(f"{_name(assignment)}: {result['warning']}")
        if result.get("resumed"):
            self.progress.began(_name(assignment), result["step"])
        if "metrics" in result:
            self.search.progressed(assignment.trial, assignment.seed)
            self.tracking.forward(assignment)
            self.progress.moved(_name(assignment), result["step"], result["metrics"].get(self.study.search.metric))

    def died(self, trial_id: str) -> None:
        """A run's process was killed: by the system for want of memory, say."""
        assignment = self._live.get(trial_id)
        if assignment is not None:
            self._died(assignment, KILLED)
            del self._live[trial_id]

    def _died(self, assignment: Assignment, how: str, details: str | None = None) -> None:
        """A run was killed or crashed: it goes on from its last checkpoint, unless that happens all the time."""
        if self.stop.is_set():
            self._interrupted(assignment)
            return
        self.search.note(assignment.trial, assignment.seed, how)
        if self.search.retry(assignment.trial, assignment.seed):
            self.tracking.end(assignment, RunState.WAITING)
            self.progress.interrupted(_name(assignment))
            self.progress.say(f"{_name(assignment)}: {how}; it is started again")
        else:
            self._failed(assignment, f"{how}, {ATTEMPTS} times without a report in between", details)

    def ended(self, trial_id: str, result: dict[str, Any] | None) -> None:
        """A run's process is done with it: by its end, a fault, because it is pruned or the study stops."""
        assignment = self._live.get(trial_id)
        if assignment is None:
            return
        if away := (result or {}).get("away"):  # nothing of this run can be kept; nor, most likely, of the others
            self.fault = self.fault or StorageAway(away)
            self.stop.set()
        fault = (result or {}).get("fault")
        if self.search.run(assignment.trial, assignment.seed).state == RunState.PRUNED:
            self._pruned(assignment, (result or {}).get("step", 0))
        elif lost := (result or {}).get("lost"):
            self._died(assignment, lost)
        elif crash := (result or {}).get("crashed"):
            self._died(assignment, _last_line(crash), crash)
        elif fault:
            self._failed(assignment, str(fault))
        elif (result or {}).get("completed"):
            self._completed(assignment)
        elif (result or {}).get("interrupted") and not self.stop.is_set():
            self._moved(assignment, (result or {})["step"])
        else:
            self._interrupted(assignment)
        del self._live[trial_id]

    def catch_up(self) -> None:
        """Send MLflow what an earlier launch could not: runs that ended but that it does not hold in full."""
        for run in self.search.runs():
            if run.state.is_terminal and not run.tracked:
                assignment = self.search.assignment(run)
                try:
                    experiment = self.study.experiment_at(assignment.params)
                except InputError:  # it failed for that, and never was a run
                    continue
                self.tracking.begin(assignment, experiment)
                self.tracking.end(assignment, run.state)

    def end_study(self) -> None:
        """Nothing more is done here: what people read of the study says so, unless another driver goes on with it."""
        with contextlib.suppress(Fenced):
            self.search.check()
            self.tracking.end_study(self.search.runs(), done=self.search.is_done())

    def interrupt_all(self) -> None:
        """The study is cut off: what is running waits to be continued, here or by the driver that took it over."""
        with contextlib.suppress(Fenced):
            self._interrupt_all()

    def _interrupt_all(self) -> None:
        for trial_id, assignment in list(self._live.items()):
            self._interrupted(assignment)
            del self._live[trial_id]

    def guard(self, act: Callable[[], Any]) -> Any:
        """Do something that Tune asked for; a fault ends the study, and is raised when Tune has let go."""
        try:
            return act()
        except Exception as fault:  # noqa: BLE001 - raised again by `_tune`; Tune would bury it under its own
            self.fault = self.fault or fault
            self.stop.set()
            return None

    def _folder(self, assignment: Assignment) -> str:
        return run_folder(self.study.name, assignment.trial, assignment.seed)

    def _error_file(self, assignment: Assignment) -> str:
        return error_file(self._folder(assignment))

    def _attempt(self, assignment: Assignment) -> Attempt:
        return Attempt(self.storage, self._folder(assignment), assignment.attempt)

    def _spec(self, assignment: Assignment, experiment: Experiment, workers: int) -> RunSpec:
        return RunSpec.of(
            experiment,
            assignment.seed,
            self._attempt(assignment),
            self.places,
            threads=self.study.resources.cpus_per_worker,
            gpus=self.study.resources.gpus_per_worker,
            data_checksum=self.tracking.data_checksum,
            workers=workers,
            together=self.study.resources.uses_worker_group,
            elsewhere=self.elsewhere,
            goal=Goal(self.study.search.metric, self.study.search.direction),
        )

    def _failed(self, assignment: Assignment, fault: str, details: str | None = None) -> None:
        self.search.fail(assignment.trial, assignment.seed, _last_line(fault))
        self.storage.write(self._error_file(assignment), (details or fault).encode())
        self.tracking.end(assignment, RunState.FAIL)
        self.progress.expect(self.search.total_runs())
        self.progress.ended(_name(assignment), f"FAILED: {_last_line(fault)}")

    def _pruned(self, assignment: Assignment, step: int) -> None:
        value = self.search.run(assignment.trial, assignment.seed).value
        self.tracking.end(assignment, RunState.PRUNED)
        self.progress.expect(self.search.total_runs())
        self.progress.ended(_name(assignment), f"pruned at step {step}, {self.study.search.metric} {value:.2f}")

    def _moved(self, assignment: Assignment, step: int) -> None:
        """A run's process is leaving: it goes on in another, on a machine that stays."""
        self.search.reissue(assignment.trial, assignment.seed)
        self.tracking.end(assignment, RunState.WAITING)
        self.progress.interrupted(_name(assignment))
        self.progress.say(f"{_name(assignment)}: its process was told to end, at step {step}; it is started again")

    def _interrupted(self, assignment: Assignment) -> None:
        run = self.search.interrupt(assignment.trial, assignment.seed)
        self.tracking.end(assignment, run.state)
        self.progress.interrupted(_name(assignment))

    def _completed(self, assignment: Assignment) -> None:
        journal = Journal(self.storage, self._folder(assignment))
        step = journal.steps()[-1]
        metrics = journal.entry(step).metrics
        value, *also = (metrics.get(metric, math.nan) for metric in self.study.search.objectives)
        run = self.search.finish(assignment.trial, assignment.seed, value, *also)
        self.tracking.end(assignment, run.state)
        self.progress.moved(_name(assignment), step, value)
        done = f"done, {self.study.search.metric} {value:.2f}"
        self.progress.ended(_name(assignment), done if run.state == RunState.COMPLETE else f"FAILED: {run.error}")


def _name(assignment: Assignment) -> str:
    what = "confirmation of " if assignment.kind == "confirmation" else ""
    return f"{what}trial {assignment.trial} seed {assignment.seed}"


def _last_line(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1]
