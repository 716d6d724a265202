"""The driver: runs a study on Ray Tune, or goes on with it where it stands.

The study database says what is to be done, the storage how far each run is; Tune places runs on the machines
and nothing is read back from its own experiment state.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass
from types import FrameType
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher
from sqlalchemy.exc import SQLAlchemyError

from hdvae.errors import InputError
from hdvae.experiment import Experiment
from hdvae.training import check_batch
from hdvae.workers import Workers
from hdvae_platform import preflight, provenance, shared_data
from hdvae_platform.checkpointing import Goal, Journal, run_folder
from hdvae_platform.cluster import LOCAL, check_address, connected, machines, release
from hdvae_platform.fencing import Attempt, Fenced
from hdvae_platform.places import Places, redacted
from hdvae_platform.progress import Progress
from hdvae_platform.records import EXPIRY, HEARTBEAT, Records, Run, StudyRecord, connect
from hdvae_platform.search import ATTEMPTS, DATABASE_FAULTS, Assignment, Search
from hdvae_platform.storage import Storage, StorageAway
from hdvae_platform.study import Study, first_difference
from hdvae_platform.tracking import PATIENCE, Tracker
from hdvae_platform.trial import trainable
from hdvae_platform.upload import StudyTracking
from hdvae_platform.worker import RunSpec, load_data

Echo = Callable[[str], None]
WAITING = {"CPU": 0, "memory": 1}
"""What the process takes that waits for the workers of a run: nothing, but Tune does not start it for that."""
TIDY = 1.0
"""Seconds between two looks at what killed workers left behind."""
GRACE = 20.0
"""Seconds for runs to end the step under way and keep what they did, when the study stops. Clusters often give 30."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Driver:
    """Everything that happens to a study's runs, told by Tune in the driver process.

    It joins the search (what next), the records (what is known), the tracking (what people read) and the
    progress (what is printed).

    Attributes:
        stop: set, here or by the heartbeat, when no more is to be done: asked for, interrupted, or because of `fault`.
        fault: a fault of the driver's own, raised once Tune has let go.
        elsewhere: whether runs may be on other machines than this one.
        room: how many runs the machines have room for, as they are now.
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
        self.room: Callable[[], int] = lambda: study.resources.concurrent
        ended = sum(run.state not in ("WAITING", "RUNNING") for run in search.runs())
        steps = study.experiment.training.steps
        self.progress = Progress(study.search.metric, steps, search.total_runs(), ended, echo, clock)
        self.interrupted = self.hurried = False
        self._live: dict[str, Assignment] = {}
        self._limit: float | None = None

    def next_config(self, trial_id: str) -> dict[str, Any] | None:
        """The spec of the next run, or None if none is to be started now."""
        while not self.stop.is_set() and len(self._live) < self.room():
            assignment = self.search.next()
            if assignment is None:
                return None
            try:
                experiment = self.study.experiment_at(assignment.params)
            except InputError as fault:  # parameters that are valid one by one, but not together
                self.search.fail(assignment.trial, assignment.seed, str(fault))
                self.progress.ended(_name(assignment), f"FAILED: {fault}")
                continue
            self._attempt(assignment).begin()
            self.storage.delete_file(self._error_file(assignment))  # of an earlier attempt
            self.tracking.begin(assignment, experiment, new=assignment.attempt == 1)
            self._live[trial_id] = assignment
            self.progress.expect(self.search.total_runs())
            self.progress.began(_name(assignment), 0)
            return self._spec(assignment, experiment).plain()
        return None

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
        """A run's process was killed: by the system for want of memory, say. It goes on from its last checkpoint."""
        assignment = self._live.get(trial_id)
        if assignment is None:
            return
        self.search.note(assignment.trial, assignment.seed, "its process was killed")
        if self.search.retry(assignment.trial, assignment.seed):
            self.tracking.end(assignment, "WAITING")
            self.progress.interrupted(_name(assignment))
            self.progress.say(f"{_name(assignment)}: its process was killed; it is started again")
        else:
            self._failed(assignment, f"its process was killed {ATTEMPTS} times, without a report in between")
        del self._live[trial_id]

    def ended(self, trial_id: str, result: dict[str, Any] | None) -> None:
        """A run's process is done with it: by its end, a fault, because it is pruned or the study stops."""
        assignment = self._live.get(trial_id)
        if assignment is None:
            return
        if (result or {}).get("lost"):
            self.died(trial_id)
            return
        if away := (result or {}).get("away"):  # nothing of this run can be kept; nor, most likely, of the others
            self.fault = self.fault or StorageAway(away)
            self.stop.set()
        fault = (result or {}).get("fault")
        if self.search.run(assignment.trial, assignment.seed).state == "PRUNED":
            self._pruned(assignment, (result or {}).get("step", 0))
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
            if run.state not in ("WAITING", "RUNNING") and not run.tracked:
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
            self.tracking.end_study(self.search.runs())

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
        return f"{self._folder(assignment)}/error.txt"

    def _attempt(self, assignment: Assignment) -> Attempt:
        return Attempt(self.storage, self._folder(assignment), assignment.attempt)

    def _spec(self, assignment: Assignment, experiment: Experiment) -> RunSpec:
        return RunSpec.of(
            experiment,
            assignment.seed,
            self._attempt(assignment),
            self.places,
            threads=self.study.resources.cpus_per_worker,
            gpus=self.study.resources.gpus_per_worker,
            data_checksum=self.tracking.data_checksum,
            workers=self.study.resources.workers,
            elsewhere=self.elsewhere,
            goal=Goal(self.study.search.metric, self.study.search.direction),
        )

    def _failed(self, assignment: Assignment, fault: str) -> None:
        self.search.fail(assignment.trial, assignment.seed, _last_line(fault))
        self.storage.write(self._error_file(assignment), fault.encode())
        self.tracking.end(assignment, "FAIL")
        self.progress.expect(self.search.total_runs())
        self.progress.ended(_name(assignment), f"FAILED: {_last_line(fault)}")

    def _pruned(self, assignment: Assignment, step: int) -> None:
        value = self.search.run(assignment.trial, assignment.seed).value
        self.tracking.end(assignment, "PRUNED")
        self.progress.expect(self.search.total_runs())
        self.progress.ended(_name(assignment), f"pruned at step {step}, {self.study.search.metric} {value:.2f}")

    def _moved(self, assignment: Assignment, step: int) -> None:
        """A run's process is leaving: it goes on in another, on a machine that stays."""
        self.search.reissue(assignment.trial, assignment.seed)
        self.tracking.end(assignment, "WAITING")
        self.progress.interrupted(_name(assignment))
        self.progress.say(f"{_name(assignment)}: its process was told to end, at step {step}; it is started again")

    def _interrupted(self, assignment: Assignment) -> None:
        run = self.search.interrupt(assignment.trial, assignment.seed)
        self.tracking.end(assignment, run.state)
        self.progress.interrupted(_name(assignment))

    def _completed(self, assignment: Assignment) -> None:
        journal = Journal(self.storage, self._folder(assignment))
        step = journal.steps()[-1]
        value = journal.entry(step).metrics.get(self.study.search.metric, float("nan"))
        run = self.search.finish(assignment.trial, assignment.seed, value)
        self.tracking.end(assignment, run.state)
        self.progress.moved(_name(assignment), step, value)
        done = f"done, {self.study.search.metric} {value:.2f}"
        self.progress.ended(_name(assignment), done if run.state == "COMPLETE" else f"FAILED: {run.error}")


def _name(assignment: Assignment) -> str:
    what = "confirmation of " if assignment.kind == "confirmation" else ""
    return f"{what}trial {assignment.trial} seed {assignment.seed}"


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


def _last_line(text: str) -> str:
    return [line.strip() for line in text.splitlines() if line.strip()][-1]


class _OfDriver:
    """A part of Tune that talks to the driver.

    Tune pickles its parts for a restore of its own, which is not used: the driver does not go along.
    """

    _driver: Driver

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_OfDriver, Searcher):
    """Tune's view of the driver as a source of runs."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The spec of the next run; None if none is to be started now, `FINISHED` if none will be."""
        config: dict[str, Any] | None = self._driver.guard(lambda: self._driver.next_config(trial_id))
        if config is None and self._driver.is_over():
            return str(Searcher.FINISHED)
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The callback, which knows the error, tells the driver."""


class StudyCallback(_OfDriver, Callback):
    """Tune's reports, passed on to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver, self._tidied = driver, 0.0

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Tune comes by here all the time, also when nothing happens."""
        if self._driver.study.resources.workers > 1 and time.monotonic() - self._tidied > TIDY:
            self._driver.guard(release)
            self._tidied = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """A run sent word."""
        self._driver.guard(lambda: self._driver.reported(trial.trial_id, result))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A run ended, or was stopped."""
        self._driver.guard(lambda: self._driver.ended(trial.trial_id, trial.last_result))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """An end that the run did not report is that of its process. Tune's own record of it cannot be read yet."""
        if not {"fault", "interrupted"}.isdisjoint(trial.last_result or {}):
            self._driver.guard(lambda: self._driver.ended(trial.trial_id, trial.last_result))
        else:
            self._driver.guard(lambda: self._driver.died(trial.trial_id))


class StudyStopper(_OfDriver, Stopper):
    """Ends a run that is pruned, and all runs when the driver says so."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a run is stopped for what it reported."""
        return bool(self._driver.guard(lambda: self._driver.prunes(trial_id, result)))

    def stop_all(self) -> bool:
        """Whether all runs are stopped."""
        return bool(self._driver.guard(self._driver.ends_all))


@dataclass(frozen=True)
class Launch:
    """How a study is to be run this time.

    Attributes:
        address: of the Ray that it runs on, as `cluster.connected` takes it.
        insecure: whether a Ray that is open to everybody will do.
        retry_failed: whether runs that failed are started again, from their checkpoints.
        accept_code_change: whether to go on if the study was run with other code before.
    """

    address: str = LOCAL
    insecure: bool = False
    retry_failed: bool = False
    accept_code_change: bool = False


def run_study(study: Study, places: Places, echo: Echo, launch: Launch) -> list[Run]:
    """Run a study to its end, or until it is asked to stop.

    Args:
        study: a checked study.
        places: where everything lives.
        echo: prints a line.
        launch: where and how.

    Returns:
        The runs as they stand at the end.

    Raises:
        InputError: the data or the cluster are not there, the name is taken by another definition, the code is another,
            or another driver holds it, or took it from this one.
        StorageAway: the storage or the study database does not answer any more.
        KeyboardInterrupt: passed on, once everything is recorded so that the study can be resumed.
    """
    try:
        return _run(study, places, echo, launch)
    except DATABASE_FAULTS as fault:
        said = redacted(str(fault).strip().splitlines()[0])
        raise StorageAway(f"study database {redacted(places.database)}: {said}") from fault


def _run(study: Study, places: Places, echo: Echo, launch: Launch) -> list[Run]:
    check_address(launch.address)
    dataset = load_data(study.experiment, places.home)
    check_batch(study.experiment, dataset, Workers(0, study.resources.workers))
    records = Records(connect(places.database))
    _define(study, records, dataset.checksum, launch.accept_code_change)
    driver_name = f"{socket.gethostname()} (process {os.getpid()})"
    records.take(study.name, driver_name, _dead(records.study(study.name)))
    with ExitStack() as stack:
        stack.callback(records.release, study.name, driver_name)
        records.replan(study.name, study.plan())
        records.recode(study.name, provenance.code())
        stop = stack.enter_context(_beating(records, study.name, driver_name))
        return _drive(study, places, records, dataset.checksum, stop, echo, launch)


def _dead(record: StudyRecord | None) -> str | None:
    """The driver that holds a study, if it ran on this machine and its process is no more."""
    holder = None if record is None else record.driver
    found = re.fullmatch(r"(.*) \(process (\d+)\)", holder or "")
    if found is None or found[1] != socket.gethostname():
        return None
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return holder
    except PermissionError:
        return None
    return None


def _define(study: Study, records: Records, checksum: str, accept_code_change: bool) -> None:
    """Record the study, or see that it is the one of this name.

    The recorded definition is read as a study is, so that a setting which is newer than it has its default.
    """
    definition = {**study.definition(), "data_checksum": checksum}
    known = records.define(study.name, definition, study.plan(), provenance.code())
    before = Study.rebuilt(study.name, known.definition, known.plan)
    then = {**before.definition(), "data_checksum": known.definition["data_checksum"]}
    difference = first_difference(then, definition)
    if difference is not None:
        raise InputError(
            f"study {study.name} exists with a different definition: {difference}; give this one another name"
        )
    gone = sorted(set(before.seeds) - set(study.seeds))
    if gone:
        raise InputError(f"study {study.name} was begun with seeds {list(before.seeds)}: {gone} cannot be taken away")
    confirming = {run.seed for run in records.runs(study.name) if run.kind == "confirmation"} & set(study.seeds)
    if confirming:
        raise InputError(f"study {study.name}: seeds {sorted(confirming)} confirmed its winners: they are not fresh")
    if study.search.pruner is not None and before.seeds[0] != study.seeds[0]:
        raise InputError(
            f"study {study.name} was begun with seed {before.seeds[0]} first, by which its trials are pruned: "
            "add others behind it"
        )
    if known.code["sources"] != provenance.code()["sources"] and not accept_code_change:
        raise InputError(
            f"study {study.name} was run with {provenance.described(known.code)}, and this is "
            f"{provenance.described(provenance.code())}: `--accept-code-change` goes on all the same, and records it"
        )


@contextmanager
def _beating(records: Records, study: str, driver_name: str) -> Iterator[threading.Event]:
    """Signs of life from a thread; the event is set when the study is to stop."""
    stop, done = threading.Event(), threading.Event()

    def beat() -> None:
        last = time.monotonic()
        while not done.wait(HEARTBEAT):
            try:
                if records.beat(study, driver_name):
                    stop.set()
                last = time.monotonic()
            except SQLAlchemyError:
                if time.monotonic() - last > EXPIRY:  # by now another driver may take over
                    stop.set()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        done.set()
        thread.join()


def _drive(
    study: Study,
    places: Places,
    records: Records,
    checksum: str,
    stop: threading.Event,
    echo: Echo,
    launch: Launch,
) -> list[Run]:
    search = Search(study, places.database, records, retry_failed=launch.retry_failed)
    tracker = Tracker(places, echo)
    tracking = StudyTracking(study, tracker, records, Storage(places.storage, places.patience), checksum)
    driver = Driver(study, places, search, tracking, stop, echo)
    with ExitStack() as stack:
        stack.enter_context(_interruptible(driver))
        stack.callback(_finish_tracking, tracker, echo)
        stack.callback(driver.end_study)
        stack.callback(driver.interrupt_all)
        driver.catch_up()
        if search.has_work():
            driver.storage.check()
        if search.has_work() and not stop.is_set():
            _tune(driver, launch)
    search.check()  # a driver that slept may find the study taken, and only its heart has noticed
    if driver.interrupted and (search.has_work() or any(run.unfinished for run in search.runs())):
        raise KeyboardInterrupt
    return search.runs()


def _finish_tracking(tracker: Tracker, echo: Echo) -> None:
    if not tracker.close(PATIENCE):
        echo("MLflow does not have everything yet: `hdvae study run` again sends the rest")


def _tune(driver: Driver, launch: Launch) -> None:
    """Let Tune place the runs.

    Raises:
        InputError: the cluster cannot be joined, or a run needs more than it has.
    """
    name, resources = driver.study.name, driver.study.resources
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hdvae-tune-", ignore_cleanup_errors=True))
        # What Ray prints, of a killed process say, would stand between the lines of the study.
        stack.enter_context(redirect_stdout(stack.enter_context((driver.places.home / "ray.log").open("a"))))
        stack.callback(_stop_on_signals, driver)  # and again: Ray takes all handlers away when it ends
        stack.enter_context(connected(launch.address, insecure=launch.insecure))
        stack.callback(driver.interrupt_all)  # before Ray's end, which takes a while
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told by the driver, in its own words
        _stop_on_signals(driver)  # again: Ray puts handlers of its own in place
        at_a_time = resources.fitting(machines())
        if launch.address != LOCAL:
            _prepare(driver)
        driver.room = lambda: resources.room(machines())
        driver.progress.say(f"starting, {_count(at_a_time)} at a time")
        alone = resources.workers == 1
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources.per_worker() if alone else WAITING),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(driver),
                num_samples=-1,
                reuse_actors=alone,  # when a run is stopped, its workers end with the process that waits for them
                trial_name_creator=lambda trial: f"{name}-{trial.trial_id}",
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                callbacks=[StudyCallback(driver)],
                stop=StudyStopper(driver),
                verbose=0,
            ),
        )
        tuner.fit()
    if driver.fault is not None:
        raise driver.fault


def _prepare(driver: Driver) -> None:
    """Give the images to the machines of a cluster, and see that all of them can work.

    Raises:
        InputError: one cannot.
    """
    study, tracking = driver.study, driver.tracking
    shared_data.publish(driver.storage, study.name, load_data(study.experiment, driver.places.home))
    driver.elsewhere = True
    preflight.check(driver.storage, study.name, tracking.data_checksum, gpus=study.resources.gpus_per_worker > 0)


@contextmanager
def _interruptible(driver: Driver) -> Iterator[None]:
    """SIGINT and SIGTERM stop the study, inside; then the handlers are those of before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _stop_on_signals(driver)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _stop_on_signals(driver: Driver) -> None:
    """Let the first signal stop the study, and the next end the wait for its runs; its records are finished always.

    Nothing is raised: Python would swallow it in some callbacks, and Ray is left in one piece.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        driver.hurried = driver.stop.is_set()
        driver.interrupted = True
        driver.stop.set()

    for number in _SIGNALS:
        signal.signal(number, interrupt)
