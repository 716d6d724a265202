"""The driver: runs a study on Ray Tune, or goes on with it where it stands.

The study database says what is to be done, the storage how far each run is; Tune places runs on the machines
and nothing is read back from its own experiment state.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.search import Searcher

from hdvae.errors import InputError
from hdvae_platform.checkpointing import Checkpoints, Journal, run_folder
from hdvae_platform.places import Places
from hdvae_platform.progress import Progress
from hdvae_platform.records import HEARTBEAT, Records, Run, connect
from hdvae_platform.search import Assignment, Search
from hdvae_platform.storage import Storage
from hdvae_platform.study import Study
from hdvae_platform.tracking import PATIENCE, Tracker
from hdvae_platform.trial import trainable
from hdvae_platform.upload import StudyTracking
from hdvae_platform.worker import RunSpec, load_data

Echo = Callable[[str], None]


class Driver:
    """Everything that happens to a study's runs, told by Tune in the driver process.

    It joins the search (what next), the records (what is known), the tracking (what people read) and the
    progress (what is printed).
    """

    def __init__(self, study: Study, places: Places, search: Search, tracking: StudyTracking, echo: Echo) -> None:
        self.study, self.places, self.search, self.tracking = study, places, search, tracking
        self.storage = Storage(places.storage)
        self.stop = threading.Event()
        ended = sum(run.state not in ("WAITING", "RUNNING") for run in search.runs())
        steps = study.experiment.training.steps
        self.progress = Progress(study.search.metric, steps, search.total_runs(), ended, echo)
        self._live: dict[str, Assignment] = {}

    def next_config(self, trial_id: str) -> dict[str, Any] | None:
        """The spec of the next run, or None if none is to be started now."""
        if self.stop.is_set() or len(self._live) >= self.study.resources.concurrent:
            return None
        assignment = self.search.next()
        if assignment is None:
            return None
        self._live[trial_id] = assignment
        experiment = self.study.experiment_at(assignment.params)
        folder = run_folder(self.study.name, assignment.trial, assignment.seed)
        steps = Checkpoints(self.storage, folder).steps()
        self.tracking.begin(assignment, experiment)
        self.progress.began(_name(assignment), steps[-1] if steps else 0)
        return RunSpec(
            folder=folder,
            seed=assignment.seed,
            experiment=experiment.plain(),
            home=str(self.places.home),
            storage=self.places.storage,
            threads=self.study.resources.cpus_per_worker,
            gpu=self.study.resources.gpus_per_worker > 0,
        ).plain()

    def is_over(self) -> bool:
        """Whether no further run is to be started."""
        return self.stop.is_set() or not self.search.has_work()

    def reported(self, trial_id: str, result: dict[str, Any]) -> None:
        """A run sent word."""
        assignment = self._live[trial_id]
        if "warning" in result:
            self.progress.say(f"{_name(assignment)}: {result['warning']}")
        if "metrics" in result:
            self.tracking.forward(assignment, result["step"])
            self.progress.moved(_name(assignment), result["step"], result["metrics"].get(self.study.search.metric))

    def ended(self, trial_id: str, result: dict[str, Any] | None, crash: str | None) -> None:
        """A run's process is done with it: by its end, a fault, a crash, or because the study stops."""
        assignment = self._live.pop(trial_id)
        fault = crash or (result or {}).get("fault")
        if fault:
            self._failed(assignment, str(fault))
        elif (result or {}).get("completed"):
            self._completed(assignment)
        else:
            self.search.interrupt(assignment.trial, assignment.seed)
            self.tracking.end(assignment, "WAITING")
            self.progress.interrupted(_name(assignment))

    def catch_up(self) -> None:
        """Send MLflow what an earlier launch could not: runs that ended but that it does not hold in full."""
        for run in self.search.runs():
            if run.state not in ("WAITING", "RUNNING") and not run.tracked:
                assignment = self.search.assignment(run)
                self.tracking.begin(assignment, self.study.experiment_at(assignment.params))
                self.tracking.end(assignment, run.state)

    def interrupt_all(self) -> None:
        """The study is cut off: what is running waits to be continued."""
        for trial_id in list(self._live):
            self.ended(trial_id, None, None)

    def _failed(self, assignment: Assignment, fault: str) -> None:
        self.search.fail(assignment.trial, assignment.seed, fault)
        self.tracking.end(assignment, "FAIL")
        self.progress.ended(_name(assignment), f"FAILED: {fault}")

    def _completed(self, assignment: Assignment) -> None:
        journal = Journal(self.storage, run_folder(self.study.name, assignment.trial, assignment.seed))
        step = journal.steps()[-1]
        value = journal.entry(step).metrics.get(self.study.search.metric, float("nan"))
        self.tracking.forward(assignment, step)
        self.search.finish(assignment.trial, assignment.seed, value)
        run = next(r for r in self.search.runs() if (r.trial, r.seed) == (assignment.trial, assignment.seed))
        self.tracking.end(assignment, run.state)
        outcome = f"done, {self.study.search.metric} {value:.2f}" if run.state == "COMPLETE" else f"FAILED: {run.error}"
        self.progress.moved(_name(assignment), step, value)
        self.progress.ended(_name(assignment), outcome)


def _name(assignment: Assignment) -> str:
    return f"trial {assignment.trial} seed {assignment.seed}"


class _OfDriver:
    """A part of Tune that talks to the driver.

    Tune pickles its parts for a restore of its own, which is not used: the driver does not go along.
    """

    _driver: Driver

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_OfDriver, Searcher):
    """Tune's view of the driver as a source of runs."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        config = self._driver.next_config(trial_id)
        if config is None and self._driver.is_over():
            return str(Searcher.FINISHED)
        return config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The callback, which knows the error, tells the driver."""


class _Callback(_OfDriver, Callback):
    """Tune's reports, passed on to the driver."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        self._driver.reported(trial.trial_id, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._driver.ended(trial.trial_id, trial.last_result, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        cause = trial.get_error()
        self._driver.ended(trial.trial_id, trial.last_result, _last_line(str(cause)))


class _Stopper(_OfDriver, Stopper):
    """Ends all runs once the driver is asked to stop."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.stop.is_set()


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "the process died"


def run_study(study: Study, places: Places, echo: Echo) -> list[Run]:
    """Run a study to its end, or until it is asked to stop.

    Args:
        study: a checked study.
        places: where everything lives.
        echo: prints a line.

    Returns:
        The runs as they stand at the end.

    Raises:
        InputError: the data are not there, the name is taken by another definition, or another driver holds it.
        KeyboardInterrupt: passed on, once everything is recorded so that the study can be resumed.
    """
    dataset = load_data(study.experiment, places.home)
    _check_fits(study, dataset.size("train"))
    records = Records(connect(places.database))
    definition = {**study.definition(), "data_checksum": dataset.checksum}
    records.define(study.name, definition, study.plan())
    driver_name = f"{socket.gethostname()} (process {os.getpid()})"
    records.take(study.name, driver_name)
    try:
        return _drive(study, places, records, dataset.checksum, driver_name, echo)
    finally:
        records.release(study.name, driver_name)


def _check_fits(study: Study, images: int) -> None:
    """What the configuration alone cannot show: the batch against the data."""
    if study.experiment.training.batch_size > images:
        raise InputError(
            f"experiment.training.batch_size is {study.experiment.training.batch_size}, but the data set has "
            f"{images} training images"
        )


def _drive(study: Study, places: Places, records: Records, checksum: str, driver_name: str, echo: Echo) -> list[Run]:
    search = Search(study, places.database, records)
    tracker = Tracker(places, echo)
    tracking = StudyTracking(study, tracker, records, Storage(places.storage), checksum)
    driver = Driver(study, places, search, tracking, echo)
    quit_beating = threading.Event()
    beating = threading.Thread(
        target=_beat, args=(records, study.name, driver_name, driver.stop, quit_beating), daemon=True
    )
    beating.start()
    try:
        driver.catch_up()
        if search.has_work():
            _tune(driver)
    finally:
        driver.interrupt_all()
        quit_beating.set()
        tracking.end_study(search.runs())
        if not tracker.close(PATIENCE):
            echo("MLflow does not have everything yet: `hdvae study run` again sends the rest")
    return search.runs()


def _beat(records: Records, study: str, driver_name: str, stop: threading.Event, quit_beating: threading.Event) -> None:
    while not quit_beating.wait(HEARTBEAT):
        if records.beat(study, driver_name):
            stop.set()


def _tune(driver: Driver) -> None:
    """Let Tune place the runs."""
    scratch = tempfile.mkdtemp(prefix="hdvae-tune-")
    name, resources = driver.study.name, driver.study.resources
    need = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        tune.Tuner(
            tune.with_resources(trainable, need),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(driver),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"{name}-{trial.trial_id}",
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                callbacks=[_Callback(driver)],
                stop=_Stopper(driver),
                verbose=0,
            ),
        ).fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
