"""What happens to the runs of a study, in the process that drives it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hdvae.errors import Damaged, InputError
from hdvae.evaluation.metrics import error_name
from hdvae.experiment.experiment import Experiment
from hdvae_platform.running.descriptions import run_title
from hdvae_platform.running.progress import Echo, Progress
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.run_queue import MAX_DEATHS
from hdvae_platform.search.search import Assignment, Search
from hdvae_platform.store.attempts import Attempt, Fenced
from hdvae_platform.store.journal import Goal, Journal
from hdvae_platform.store.layout import error_file, run_folder
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.run_summary import read_summary
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.study import Study
from hdvae_platform.training.messages import (
    PROCESS_KILLED,
    Ended,
    EndKind,
    Message,
    Reported,
    Resumed,
    Started,
    Warned,
)
from hdvae_platform.training.spec import RunSpec

SILENCE = 30.0
"""Seconds without a message from a run that was given to Tune, after which a line says so."""
GRACE = 20.0
"""Seconds that runs get to finish their step and save their work when the study stops. Clusters often give 30."""


@dataclass
class _LiveRun:
    """A run that Tune was given.

    Attributes:
        assignment: the run.
        workers: the number of its processes.
        silent_since: when it was given to Tune, until its first message or the warning that there is none.
        step: the last step that it reported.
    """

    assignment: Assignment
    workers: int
    silent_since: float | None
    step: int = 0


class Driver:
    """Everything that happens to a study's runs; called by Tune's adapters in the driver process.

    It joins the search (which run is next), the records (what is known), the tracking (what goes to MLflow) and the
    progress (what is printed).

    Attributes:
        study: the study.
        places: where everything lives.
        search: which run is next, and what the study database knows.
        tracking: what goes to MLflow.
        storage: the study's storage.
        stop: set when the study is to stop, because a user asked for it, another driver took over, or after a fault.
        interrupted: whether a signal requested the stop.
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
        self.interrupted = False
        ended = sum(run.state.is_terminal for run in search.runs())
        steps = study.experiment.training.steps
        self._progress = Progress(study.search.metric, steps, search.total_runs(), ended, echo, clock)
        self._clock, self._goal = clock, Goal(study.search.metric, study.search.direction)
        self._waits_for_runs = True
        self._fault: Exception | None = None
        self._untidy = ""
        self._slots: Callable[[], int] = lambda: study.resources.concurrent * study.resources.min_workers
        self._elsewhere = False
        self._live: dict[str, _LiveRun] = {}
        self._limit: float | None = None

    # What the launch asks of it.

    def use_cluster(self, slots: Callable[[], int], at_a_time: int, *, elsewhere: bool) -> None:
        """Start runs from now on.

        Args:
            slots: the number of workers for which the machines have room, as they are when it is called.
            at_a_time: the number of runs that fit now.
            elsewhere: whether runs may be on other machines than this one.
        """
        self._slots, self._elsewhere = slots, elsewhere
        self._progress.say(f"starting, {'1 run' if at_a_time == 1 else f'{at_a_time} runs'} at a time")

    def request_stop(self) -> None:
        """Stop the study, because of a signal; if it stops already, the driver no longer waits for its runs."""
        self._waits_for_runs = not self.stop.is_set()
        self.interrupted = True
        self.stop.set()

    def raise_fault(self) -> None:
        """Raise the fault that ended the study, if there is one."""
        if self._fault is not None:
            raise self._fault

    def catch_up(self) -> None:
        """Send MLflow the runs that ended in an earlier launch, but that it does not have completely."""
        for run in self.search.runs():
            if run.state.is_terminal and not run.tracked:
                assignment = self.search.assignment(run)
                try:
                    experiment = self.study.experiment_at(assignment.params, assignment.kind)
                except InputError:  # the reason why it failed before it was begun
                    continue
                self.tracking.begin(assignment, experiment)
                self.tracking.end(assignment, run.state)

    def end_study(self) -> None:
        """Record in MLflow that this driver stops, unless another driver has taken over the study."""
        with contextlib.suppress(Fenced):
            self.search.check()
            self.tracking.end_study(self.search.runs(), done=self.search.is_done())

    def interrupt_all(self) -> None:
        """Record that the live runs wait to be continued, unless another driver has taken over the study."""
        with contextlib.suppress(Fenced):
            for trial_id, live in list(self._live.items()):
                self._interrupted(live.assignment)
                del self._live[trial_id]

    # What Tune's adapters call.

    def next_spec(self, trial_id: str) -> dict[str, Any] | None:
        """The spec of the next run as JSON-like values; None if none is to be started now."""
        resources = self.study.resources
        while not self.stop.is_set() and resources.has_room(self._free_slots(), len(self._live)):
            assignment = self.search.next()
            if assignment is None:
                return None
            try:
                experiment = self.study.experiment_at(assignment.params, assignment.kind)
            except InputError as fault:  # parameters that are valid one by one, but not together
                self.search.fail(assignment.trial, assignment.seed, str(fault))
                self._progress.ended(self._name(assignment), f"failed: {fault}")
                continue
            workers = resources.workers_in(self._free_slots(), len(self._live), experiment.training.batch_size)
            self._attempt(assignment).begin(assignment.params)
            self.storage.delete_file(self._error_file(assignment))  # of an earlier attempt
            self.tracking.begin(assignment, experiment, new=assignment.attempt == 1)
            self._live[trial_id] = _LiveRun(assignment, workers, silent_since=self._clock())
            self._progress.expect(self.search.total_runs())
            self._progress.began(self._name(assignment), 0)
            return self._spec(assignment, experiment, workers).plain()
        return None

    def _free_slots(self) -> int:
        """The number of workers that still fit beside this study's runs; other studies may use that room."""
        return self._slots() - sum(live.workers for live in self._live.values())

    def warn_of_silence(self) -> None:
        """Say once for each run that it has sent no message. The reason is not known: to Tune such a run is pending."""
        for live in self._live.values():
            if live.silent_since is not None and self._clock() - live.silent_since > SILENCE:
                live.silent_since = None
                name = self._name(live.assignment)
                self._progress.say(f"no message from {name} for {SILENCE:.0f} s: it waits for room, or starts slowly")

    def is_over(self) -> bool:
        """Whether no run will be started any more: the study stops, or no run is live and none is to come."""
        return self.stop.is_set() or not (self._live or self.search.has_work())

    def should_end_runs(self) -> bool:
        """Whether Tune is to end the live runs. When the study stops, they first get `GRACE` seconds for it."""
        if not self.stop.is_set():
            return False
        if self._limit is None:
            self._limit = time.monotonic() + GRACE
            self._ask_to_end()
        return not self._waits_for_runs or not self._live or time.monotonic() > self._limit

    def _ask_to_end(self) -> None:
        requests = Storage(self.places.storage)
        for live in self._live.values():
            with contextlib.suppress(StorageAway, Fenced):  # nothing can be kept then, or it is another driver's
                Attempt(requests, self._folder(live.assignment), live.assignment.attempt).ask_to_end()

    def should_prune(self, trial_id: str, message: Message | None) -> bool:
        """Whether a run is pruned because of this report. Tune calls this first, and then always `received`."""
        live = self._live.get(trial_id)
        if live is None or not isinstance(message, Reported):
            return False
        values = (message.metrics.get(metric) for metric in self.study.search.measured)
        return self.search.report(live.assignment.trial, live.assignment.seed, message.step, *values)

    def received(self, trial_id: str, message: Message | None) -> None:
        """Handle a message of a run. An `Ended` is handled by `ended`, after Tune has released the process."""
        live = self._live[trial_id]
        assignment, name = live.assignment, self._name(live.assignment)
        live.silent_since = None
        match message:
            case Warned(text, lasting):
                if lasting:
                    self.search.note(assignment.trial, assignment.seed, text)
                self._progress.say(f"{name}: {text}")
            case Resumed(step):
                live.step = step
                self._progress.began(name, step)
            case Reported(step, metrics):
                live.step = step
                self.search.progressed(assignment.trial, assignment.seed)
                self.tracking.forward(assignment)
                self._progress.moved(name, step, metrics.get(self.study.search.metric))
            case Started() | Ended() | None:
                pass

    def ended(self, trial_id: str, message: Message | None) -> None:
        """Handle the end of a run that reported how it ended, was pruned, or ends with the study. For kills see `died`.

        Args:
            trial_id: Tune's name for the run.
            message: the run's last.
        """
        live = self._live.get(trial_id)
        if live is None:
            return
        assignment = live.assignment
        if isinstance(message, Ended) and message.how is EndKind.STORAGE_AWAY:
            # Nothing of this run can be kept; nor, most likely, of the others.
            self._end_by(StorageAway(message.text))
        pruned = self.search.run(assignment.trial, assignment.seed).state == RunState.PRUNED
        match message:
            case _ if pruned:
                self._pruned(assignment, live.step)
            case Ended(EndKind.COMPLETED):
                self._completed(assignment)
            case Ended(EndKind.FAILED, text=text):
                self._failed(assignment, text)
            case Ended(EndKind.CRASHED, text=text):
                self._died(assignment, _last_line(text), text)
            case Ended(EndKind.WORKERS_LOST, text=text):
                self._died(assignment, text)
            case Ended(EndKind.INTERRUPTED, step=int(step)) if not self.stop.is_set():
                self._left_its_process(assignment, step)
            case _:
                self._interrupted(assignment)
        self._summarise(assignment)
        del self._live[trial_id]  # last: what fails above is interrupted in `interrupt_all`

    def died(self, trial_id: str) -> None:
        """Handle a killed process (for lack of memory, for instance): the run is queued again, or has failed."""
        live = self._live.get(trial_id)
        if live is not None:
            self._died(live.assignment, PROCESS_KILLED)
            self._summarise(live.assignment)
            del self._live[trial_id]

    def guard(self, act: Callable[[], Any]) -> Any:
        """Call a function for Tune. If it raises, the study stops, and `raise_fault` raises the exception later."""
        try:
            return act()
        except Exception as fault:  # noqa: BLE001 - raised by `raise_fault`; Tune would bury it under its own
            self._end_by(fault)
            return None

    def tidy(self, act: Callable[[], Any]) -> None:
        """Call a function that the study can do without for now. If it raises, a line says so, once in a row."""
        try:
            act()
            self._untidy = ""
        except Exception as fault:  # noqa: BLE001 - told; the function is called again
            line = f"{type(fault).__name__}: {_last_line(str(fault) or 'no reason given')}"
            if line != self._untidy:
                self._progress.say(f"resources of ended runs could not be released, which is tried again: {line}")
            self._untidy = line

    def _end_by(self, fault: Exception) -> None:
        self._fault = self._fault or fault
        self.stop.set()

    def _name(self, assignment: Assignment) -> str:
        return run_title(self.study.name, assignment)

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
            grouped=self.study.resources.uses_worker_group,
            elsewhere=self._elsewhere,
            goal=self._goal,
            source=self.tracking.sources.get(assignment.seed),
        )

    def _summarise(self, assignment: Assignment) -> None:
        """Record how far a run came, if it has ended: nobody needs to read its files then to know."""
        if self.search.run(assignment.trial, assignment.seed).state.is_terminal:
            summary, _ = read_summary(self.storage, self._folder(assignment), assignment.attempt, self._goal)
            self.search.summarise(assignment.trial, assignment.seed, summary)

    def _died(self, assignment: Assignment, how: str, details: str | None = None) -> None:
        """Queue a run again that was killed or crashed; it has failed if that happened too often."""
        if self.stop.is_set():
            self._interrupted(assignment)
            return
        self.search.note(assignment.trial, assignment.seed, how)
        if self.search.retry(assignment.trial, assignment.seed):
            self.tracking.end(assignment, RunState.WAITING)
            self._progress.interrupted(self._name(assignment))
            self._progress.say(f"{self._name(assignment)}: {how}; it is started again")
        else:
            self._failed(assignment, f"{how}, {MAX_DEATHS} times without a report in between", details)

    def _failed(self, assignment: Assignment, fault: str, details: str | None = None) -> None:
        self.search.fail(assignment.trial, assignment.seed, _last_line(fault))
        self.storage.write(self._error_file(assignment), (details or fault).encode())
        self.tracking.end(assignment, RunState.FAIL)
        self._progress.expect(self.search.total_runs())
        self._progress.ended(self._name(assignment), f"failed: {_last_line(fault)}")

    def _pruned(self, assignment: Assignment, step: int) -> None:
        value = self.search.run(assignment.trial, assignment.seed).value
        self.tracking.end(assignment, RunState.PRUNED)
        self._progress.expect(self.search.total_runs())
        self._progress.ended(self._name(assignment), f"pruned at step {step}, {self.study.search.metric} {value:.2f}")

    def _left_its_process(self, assignment: Assignment, step: int) -> None:
        """Queue a run again whose process was told to end; it continues in another process."""
        self.search.reissue(assignment.trial, assignment.seed)
        self.tracking.end(assignment, RunState.WAITING)
        name = self._name(assignment)
        self._progress.interrupted(name)
        self._progress.say(f"{name}: its process was told to end, at step {step}; it is started again")

    def _interrupted(self, assignment: Assignment) -> None:
        run = self.search.interrupt(assignment.trial, assignment.seed)
        self.tracking.end(assignment, run.state)
        self._progress.interrupted(self._name(assignment))

    def _completed(self, assignment: Assignment) -> None:
        journal = Journal(self.storage, self._folder(assignment))
        step = journal.steps()[-1]
        try:
            metrics = journal.entry(step).metrics
        except Damaged as fault:
            self._failed(assignment, f"{fault}; starting the run again makes this report again")
            return
        value, *also = (metrics.get(metric, math.nan) for metric in self.study.search.measured)
        run = self.search.finish(assignment.trial, assignment.seed, value, *also)
        self.tracking.end(assignment, run.state)
        name = self._name(assignment)
        self._progress.moved(name, step, value)
        error = metrics.get(error_name(self.study.search.metric))
        done = f"done, {self.study.search.metric} {value:.2f}" + (f" (se over images {error:.2f})" if error else "")
        self._progress.ended(name, done if run.state == RunState.COMPLETE else f"failed: {run.error}")


def _last_line(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1]
