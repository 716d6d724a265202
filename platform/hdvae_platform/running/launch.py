"""Launching a study: run it on Ray Tune, or go on with it where it stands.

The study database says what is to be done, the storage how far each run is; Tune places runs on the machines, and
nothing is read back from its own experiment state. Ray is imported only when there is something to train.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

from hdvae.errors import Damaged, InputError
from hdvae.training.loop import check_batch
from hdvae.training.run_files import newest_attempt
from hdvae.training.sealed import seal, unseal
from hdvae.workers import Workers
from hdvae_platform.cluster import environment
from hdvae_platform.cluster.address import LOCAL, check_address
from hdvae_platform.display.text import short_path
from hdvae_platform.running.deletion import delete_study
from hdvae_platform.running.driver import Driver
from hdvae_platform.running.progress import Echo
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import Search
from hdvae_platform.search.trials import DATABASE_FAULTS, forget_study
from hdvae_platform.store import lease
from hdvae_platform.store.attempts import Fenced
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import MARKER, run_folder, study_marker
from hdvae_platform.store.places import Places, redacted
from hdvae_platform.store.records import Records, Run, StudyRecord
from hdvae_platform.store.sources import Source, sources_of
from hdvae_platform.store.storage import Storage, StorageAway
from hdvae_platform.study.annealing import experiments_of
from hdvae_platform.study.caveats import caveats_of_study
from hdvae_platform.study.changes import first_difference
from hdvae_platform.study.checks import check_images
from hdvae_platform.study.resources import this_machine
from hdvae_platform.study.settled import settled
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import provenance
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.tracker import SERVER_WAIT, Tracker

REFUSED_LAUNCH_WAIT = 5.0
"""Seconds that MLflow gets to take what is queued, where the launch was refused."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Launch:
    """How a study is to be run this time.

    Attributes:
        address: the Ray that it runs on, as `cluster.connection.connected` takes it.
        insecure: whether to use a Ray cluster without authentication.
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
        runs: the study's runs as they stand.
        finished: whether no further run is to come.
        sent: whether MLflow has all records of these runs.
    """

    runs: list[Run]
    finished: bool
    sent: bool


def run_study(study: Study, places: Places, echo: Echo, launch: Launch) -> Ended:
    """Run a study to its end, or until it is asked to stop.

    Args:
        study: a checked study.
        places: where everything lives.
        echo: prints a line.
        launch: where and how.

    Raises:
        InputError: the data or the cluster are not there, the name is taken by another definition, the code is another,
            or another driver runs the study, or took it from this one.
        StorageAway: the storage or the study database does not answer any more.
        KeyboardInterrupt: passed on, once everything is recorded so that the study can be resumed.
    """
    environment.configure()
    try:
        return _run(study, places, echo, launch)
    except DATABASE_FAULTS as fault:
        reason = redacted(str(fault).strip().splitlines()[0])
        raise StorageAway(f"study database {redacted(places.database)}: {reason}") from fault


def _run(study: Study, places: Places, echo: Echo, launch: Launch) -> Ended:
    check_address(launch.address)
    dataset = load_data(study.experiment, places.home)
    check_batch(study.experiment, dataset, Workers(0, study.resources.min_workers))
    check_images(study, dataset.size("valid"))
    records = Records(places.database)
    known = records.study(study.name)
    if known is not None and known.deleting:
        echo(f"the deletion of study {study.name} was interrupted, and is ended first")
        delete_study(places, known)
        known = None
    study = settled(study, None if known is None else known.as_study())
    machine = this_machine() if launch.address == LOCAL else None
    for caveat in caveats_of_study(study, dataset.size("valid"), machine):
        echo(f"! {caveat}")
    sources = sources_of(study, experiments_of(study), records, Storage(places.storage, places.patience, echo))
    is_new = known is None
    _define(study, records, dataset.checksum, launch.accept_code_change)
    driver = lease.driver_name()
    records.take(study.name, driver, lease.dead(records.study(study.name)))
    with ExitStack() as stack:
        stack.callback(records.release, study.name, driver)
        if is_new:
            stack.push(_withdrawing(study.name, places, records))
        stop = stack.enter_context(lease.beating(records, study.name, driver))
        return _drive(study, places, records, provenance.data_tags(dataset), sources, stop, echo, launch)


def _define(study: Study, records: Records, checksum: str, accept_code_change: bool) -> None:
    """Record the study, or check that it continues the one of this name.

    Raises:
        InputError: it does not.
    """
    definition = {**study.definition(), "data_checksum": checksum}
    known = records.define(study.name, definition, study.plan(), provenance.code())
    before = settled(known.as_study())
    then = {**before.definition(), "data_checksum": known.definition["data_checksum"]}
    difference = first_difference(then, definition)
    if difference is not None:
        raise InputError(
            f"study {study.name} exists with a different definition: {difference}; give this one another name"
        )
    _check_seeds(study, before, records)
    if known.code["sources"] != provenance.code()["sources"] and not accept_code_change:
        raise InputError(
            f"study {study.name} was run with {provenance.described(known.code)}, and this is "
            f"{provenance.described(provenance.code())}: `--accept-code-change` goes on all the same, and records it"
        )


def _check_seeds(study: Study, before: Study, records: Records) -> None:
    gone = sorted(set(before.seeds) - set(study.seeds))
    if gone:
        raise InputError(f"study {study.name} was begun with seeds {list(before.seeds)}: {gone} cannot be taken away")
    confirming = {run.seed for run in records.runs(study.name) if run.kind == "confirmation"} & set(study.seeds)
    if confirming:
        raise InputError(
            f"study {study.name}: its best trials were confirmed with seeds {sorted(confirming)}, which cannot become "
            "seeds of the search"
        )
    if study.search.pruner is not None and before.seeds[0] != study.seeds[0]:
        raise InputError(
            f"study {study.name} was begun with seed {before.seeds[0]} first, by which its trials are pruned: "
            "add other seeds after it"
        )


def _withdrawing(name: str, places: Places, records: Records) -> Callable[..., None]:
    """Removes the records of a study whose first launch is refused, so that its file can still be changed."""

    def withdraw(kind: type[BaseException] | None, *_: object) -> None:
        refused = kind is not None and issubclass(kind, InputError) and not issubclass(kind, Fenced)
        if refused and not records.runs(name):
            forget_study(places.database, name)
            records.forget(name)

    return withdraw


def _drive(
    study: Study,
    places: Places,
    records: Records,
    data_tags: Mapping[str, str],
    sources: Mapping[int, Source],
    stop: threading.Event,
    echo: Echo,
    launch: Launch,
) -> Ended:
    storage = Storage(places.storage, places.patience, echo)
    search = Search(
        study,
        places.database,
        records,
        retry_failed=launch.retry_failed,
        newest=lambda trial, seed: newest_attempt(storage, run_folder(study.name, trial, seed)),
    )
    if search.is_done() and not _mlflow_answers(places, echo):
        return Ended(search.runs(), finished=True, sent=False)
    known = records.study(study.name)
    assert known is not None
    tracker = Tracker(places, echo)
    tracking = StudyTracking(study, tracker, records, Storage(places.storage, places.patience), data_tags, sources)
    driver = Driver(study, places, search, tracking, stop, echo)
    with ExitStack() as stack:
        stack.enter_context(_stopped_by_signals(driver))
        stack.push(_closing(tracker, echo))

        def begin() -> None:
            """Change the study; called once nothing can refuse the launch any more."""
            records.replan(study.name, study.plan())
            records.recode(study.name, provenance.code())
            if search.has_work():
                number = records.outnumber(study.name, launched)
                driver.storage.write(study_marker(study.name), _marker(known, number))
            search.begin()
            tracking.begin_study()
            stack.callback(driver.end_study)
            stack.callback(driver.interrupt_all)

        driver.catch_up()
        launched = 0
        if not search.has_work():
            begin()
        elif not stop.is_set():
            driver.storage.check()
            launched = _last_launch(driver.storage, known)
            from hdvae_platform.running.tuning import place_runs

            echo(f"watch it run: hdvae ui {study.name} --home {short_path(places.home)}")
            place_runs(driver, launch.address, begin, lambda: _handle_signals(driver), insecure=launch.insecure)
    search.check()  # a driver that slept may have lost the study, and only its heartbeat knows
    if driver.interrupted and not search.is_done():
        raise KeyboardInterrupt
    if search.is_done():
        for line in filter(None, (search.savings(), search.unconfirmed())):
            echo(line)
    return Ended(search.runs(), search.is_done(), tracker.is_complete)


def _marker(record: StudyRecord, launch: int) -> bytes:
    """What the folder of a study says: the study database that it belongs to, and the number of the latest launch."""
    return seal(record.name, MARKER, {"created": record.created, "launch": launch})


def _last_launch(storage: Storage, record: StudyRecord) -> int:
    """The latest launch of which the study's folder knows; 0 for a new folder.

    Raises:
        InputError: the folder belongs to a study of the same name in another study database, or does not say whose it
            is.
    """
    name = record.name
    try:
        found = unseal(storage.read(study_marker(name)), storage.address(study_marker(name)), MARKER, name).content
    except FileNotFoundError:
        return 0
    except Damaged as fault:
        raise InputError(f"{fault}; delete it if the folder belongs to this study") from None
    if found["created"] != record.created:
        raise InputError(
            f"{storage.address(name)} belongs to a study {name} of another study database: give this one another name, "
            "or check whether HDVAE_STUDY_DB and HDVAE_STORAGE belong together"
        )
    return int(found["launch"])


def _mlflow_answers(places: Places, echo: Echo) -> bool:
    """Whether MLflow answers; where there is nothing to train, it is not waited for."""
    try:
        Client(places)
    except Unreachable as fault:
        echo(f"{fault}; all runs have ended, and the same command sends MLflow later what it lacks")
        return False
    return True


def _closing(tracker: Tracker, echo: Echo) -> Callable[..., None]:
    """Gives MLflow time to take everything in the end; a launch that was refused has nothing worth a minute."""

    def close(kind: type[BaseException] | None, *_: object) -> None:
        refused = kind is not None and issubclass(kind, InputError)
        if not tracker.close(REFUSED_LAUNCH_WAIT if refused else SERVER_WAIT) and not refused:
            echo("MLflow does not have everything yet: `hdvae study run` again sends the rest")

    return close


@contextmanager
def _stopped_by_signals(driver: Driver) -> Iterator[None]:
    """SIGINT and SIGTERM stop the study, inside; then the handlers are those of before."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _handle_signals(driver)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _handle_signals(driver: Driver) -> None:
    """Have the first signal stop the study, and the next one end the wait for its runs; records are always finished.

    Nothing is raised: Python would swallow it in some callbacks, and Ray is left in one piece.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        driver.request_stop()

    for number in _SIGNALS:
        signal.signal(number, stop)
