"""The driver: runs a study on Ray Tune, or goes on with it where it stands.

The study database says what is to be done, the storage how far each run is; Tune places runs on the machines
and nothing is read back from its own experiment state.
"""

from __future__ import annotations

import json
import logging
import os
import signal
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

from hdvae.errors import InputError
from hdvae.training.loop import check_batch
from hdvae.workers import Workers
from hdvae_platform.cluster import preflight
from hdvae_platform.cluster.connection import LOCAL, check_address, connected, machines, release
from hdvae_platform.running.driver import Driver, Echo
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import DATABASE_FAULTS, Search
from hdvae_platform.store import lease, shared_data
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import ray_log, study_marker
from hdvae_platform.store.places import Places, redacted
from hdvae_platform.store.records import Records, Run, connect
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.study import Study, first_difference
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.tracker import SERVER_WAIT, Tracker
from hdvae_platform.training.tune_trainable import trainable

WAITING = {"CPU": 0, "memory": 1}
"""What the process takes that waits for the workers of a run: nothing, but Tune does not start it for that."""
BRIEF = 5.0
"""Seconds to wait in the end for MLflow to get on, where the launch was refused."""
TIDY = 1.0
"""Seconds between two looks at what killed workers left behind."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _count(runs: int) -> str:
    return "1 run" if runs == 1 else f"{runs} runs"


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
        self._driver.guard(self._driver.watch)
        if self._driver.study.resources.together and time.monotonic() - self._tidied > TIDY:
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
        if not {"fault", "crashed", "interrupted"}.isdisjoint(trial.last_result or {}):
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


@dataclass(frozen=True)
class Ended:
    """How a launch of a study ended.

    Attributes:
        runs: as they stand.
        finished: whether none is to come.
    """

    runs: list[Run]
    finished: bool


def run_study(study: Study, places: Places, echo: Echo, launch: Launch) -> Ended:
    """Run a study to its end, or until it is asked to stop.

    Args:
        study: a checked study.
        places: where everything lives.
        echo: prints a line.
        launch: where and how.

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


def _run(study: Study, places: Places, echo: Echo, launch: Launch) -> Ended:
    check_address(launch.address)
    dataset = load_data(study.experiment, places.home)
    check_batch(study.experiment, dataset, Workers(0, study.resources.fewest))
    records = Records(connect(places.database))
    _define(study, records, dataset.checksum, launch.accept_code_change)
    driver = lease.driver_name()
    records.take(study.name, driver, lease.dead(records.study(study.name)))
    with ExitStack() as stack:
        stack.callback(records.release, study.name, driver)
        records.replan(study.name, study.plan())
        records.recode(study.name, provenance.code())
        stop = stack.enter_context(lease.beating(records, study.name, driver))
        return _drive(study, places, records, dataset.checksum, stop, echo, launch)


def _define(study: Study, records: Records, checksum: str, accept_code_change: bool) -> None:
    """Record the study, or see that it is the one of this name."""
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


def _drive(
    study: Study,
    places: Places,
    records: Records,
    checksum: str,
    stop: threading.Event,
    echo: Echo,
    launch: Launch,
) -> Ended:
    search = Search(study, places.database, records, retry_failed=launch.retry_failed)
    if search.is_done() and not _answers(places, echo):
        return Ended(search.runs(), finished=True)
    tracker = Tracker(places, echo)
    tracking = StudyTracking(study, tracker, records, Storage(places.storage, places.patience), checksum)
    driver = Driver(study, places, search, tracking, stop, echo)
    with ExitStack() as stack:
        stack.enter_context(_interruptible(driver))
        stack.push(_finishing(tracker, echo))
        stack.callback(driver.end_study)
        stack.callback(driver.interrupt_all)
        driver.catch_up()
        if search.has_work():
            driver.storage.check()
            _own(driver.storage, study.name, records)
        if search.has_work() and not stop.is_set():
            _tune(driver, launch)
    search.check()  # a driver that slept may find the study taken, and only its heart has noticed
    if driver.interrupted and not search.is_done():
        raise KeyboardInterrupt
    return Ended(search.runs(), search.is_done())


def _own(storage: Storage, name: str, records: Records) -> None:
    """See that the study's folder is of the study that this database knows; another one may have that name too.

    Raises:
        InputError: it is another's.
    """
    known = records.study(name)
    assert known is not None
    mine = {"created": known.created}
    try:
        found = json.loads(storage.read(study_marker(name)))
    except FileNotFoundError:
        storage.write(study_marker(name), json.dumps(mine).encode())
        return
    if found != mine:
        raise InputError(
            f"{storage.address(name)} is of a study {name} that another study database knows: give this one another "
            "name, or see whether HDVAE_STUDY_DB and HDVAE_STORAGE belong together"
        )


def _answers(places: Places, echo: Echo) -> bool:
    """Whether MLflow answers; where nothing is trained meanwhile, it is not waited for."""
    try:
        Client(places)
    except Unreachable as fault:
        echo(f"{fault}; nothing is left to train, and what MLflow lacks of it the same command sends later")
        return False
    return True


def _finishing(tracker: Tracker, echo: Echo) -> Callable[..., None]:
    """Lets MLflow have everything in the end; a launch that was refused has nothing that is worth a minute."""

    def finish(kind: type[BaseException] | None, *_: object) -> None:
        refused = kind is not None and issubclass(kind, InputError)
        if not tracker.close(BRIEF if refused else SERVER_WAIT) and not refused:
            echo("MLflow does not have everything yet: `hdvae study run` again sends the rest")

    return finish


def _tune(driver: Driver, launch: Launch) -> None:
    """Let Tune place the runs.

    Raises:
        InputError: the cluster cannot be joined, or a run needs more than it has.
    """
    name, resources = driver.study.name, driver.study.resources
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hdvae-tune-", ignore_cleanup_errors=True))
        # What Ray prints, of a killed process say, would stand between the lines of the study.
        stack.enter_context(redirect_stdout(stack.enter_context(ray_log(driver.places.home).open("a"))))
        stack.callback(_stop_on_signals, driver)  # and again: Ray takes all handlers away when it ends
        stack.enter_context(connected(launch.address, insecure=launch.insecure))
        stack.callback(driver.interrupt_all)  # before Ray's end, which takes a while
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are told by the driver, in its own words
        _stop_on_signals(driver)  # again: Ray puts handlers of its own in place
        at_a_time = resources.fitting(machines())
        if launch.address != LOCAL:
            _prepare(driver)
        driver.slots = lambda: resources.slots(machines())
        driver.progress.say(f"starting, {_count(at_a_time)} at a time")
        tuner = tune.Tuner(
            tune.with_resources(trainable, WAITING if resources.together else resources.per_worker()),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(driver),
                num_samples=-1,
                reuse_actors=not resources.together,  # workers end with the process that waits for them
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
    if not any(run.attempts for run in driver.search.runs()):  # later, training goes on without MLflow
        try:
            Client(driver.places)
        except Unreachable as fault:
            raise InputError(f"{fault}: start it, or set MLFLOW_TRACKING_URI") from None
    shared_data.publish(driver.storage, study.name, load_data(study.experiment, driver.places.home))
    driver.elsewhere = True
    gpus = study.resources.gpus_per_worker > 0
    preflight.check(driver.storage, study.name, tracking.data_checksum, driver.stop, gpus=gpus)


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
        driver.hurried = driver.interrupted
        driver.interrupted = True
        driver.stop.set()

    for number in _SIGNALS:
        signal.signal(number, interrupt)
