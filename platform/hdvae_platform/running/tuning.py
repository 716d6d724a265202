"""Lets Ray Tune place the runs of a study on the machines; the only module of this package that starts Ray."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout

from ray import tune

from hdvae.errors import InputError
from hdvae_platform.cluster import preflight
from hdvae_platform.cluster.address import LOCAL
from hdvae_platform.cluster.connection import connected, machines
from hdvae_platform.running.driver import Driver
from hdvae_platform.running.tune_adapters import StudyCallback, StudySearcher, StudyStopper
from hdvae_platform.store import shared_data
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import ray_log
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.training.tune_trainable import trainable

GROUP_PARENT = {"CPU": 0, "memory": 1}
"""Resources of the process that waits for a worker group: none, but Tune does not start a process for nothing."""


def place_runs(
    driver: Driver, address: str, begin: Callable[[], None], handle_signals: Callable[[], None], *, insecure: bool
) -> None:
    """Have Tune run everything that the driver issues, until it stops.

    Args:
        driver: of the study.
        address: the Ray to use, as `cluster.connection.connected` takes it.
        begin: called before the first run is placed, once nothing can refuse the launch any more.
        handle_signals: makes signals stop the study; called again after Ray has replaced the handlers.
        insecure: whether to use a Ray cluster without authentication.

    Raises:
        InputError: the cluster cannot be joined, or a run needs more than it has.
    """
    name, resources = driver.study.name, driver.study.resources
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hdvae-tune-", ignore_cleanup_errors=True))
        # What Ray prints, of a killed process say, would stand between the lines of the study.
        stack.enter_context(redirect_stdout(stack.enter_context(ray_log(driver.places.home).open("a"))))
        stack.callback(handle_signals)  # Ray removes all handlers when it ends
        stack.enter_context(connected(address, insecure=insecure))
        stack.callback(driver.interrupt_all)  # before Ray's end, which takes a while
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the driver tells of failures in its own words
        handle_signals()  # Ray has put its own handlers in place
        at_a_time = resources.concurrent_runs(machines())
        if address != LOCAL:
            _prepare_machines(driver)
        begin()
        driver.use_cluster(lambda: resources.slots(machines()), at_a_time, elsewhere=address != LOCAL)
        tuner = tune.Tuner(
            tune.with_resources(trainable, GROUP_PARENT if resources.uses_worker_group else resources.per_worker()),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(driver),
                num_samples=-1,
                reuse_actors=not resources.uses_worker_group,  # workers end with the process that waits for them
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
    driver.raise_fault()


def _prepare_machines(driver: Driver) -> None:
    """Give the images to the machines of a cluster, and check that all of them can train.

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
    gpus = study.resources.gpus_per_worker > 0
    preflight.check(driver.storage, study.name, tracking.data_checksum, driver.stop, gpus=gpus)
