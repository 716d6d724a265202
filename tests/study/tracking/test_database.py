"""Two people who begin their first studies together on a new MLflow."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier

import mlflow
import pytest

from hdvae_platform.store.places import Places
from hdvae_platform.tracking.client import Client
from tests.study.helpers.commands import FORKING, Forked
from tests.study.helpers.mlflow_server import serving
from tests.study.tracking.test_client import IDENTITY

WAIT = 60
"""Seconds for everyone to come to the barrier."""


@pytest.fixture(params=["database", "server"])
def fresh(request, places):
    """An MLflow without the platform's experiment."""
    if request.param == "database":
        yield places
        return
    with serving(places.tracking) as server:
        yield dataclasses.replace(places, tracking=server, artifacts=None)


def test_the_experiment_is_made_once(fresh, monkeypatch):
    """Three clients see that there is none before any of them makes it."""
    everyone, look = threading.Barrier(3), mlflow.MlflowClient.get_experiment_by_name
    waited = threading.local()

    def looked(client, name):
        found = look(client, name)
        if not hasattr(waited, "before"):
            waited.before = everyone.wait(WAIT)
        return found

    monkeypatch.setattr(mlflow.MlflowClient, "get_experiment_by_name", looked)
    with ThreadPoolExecutor(3) as threads:
        clients = list(threads.map(lambda _: Client(fresh), range(3)))
    assert len({client._experiment for client in clients}) == 1
    run = clients[0].open_run("a", {}, IDENTITY)
    assert [found.run_id for found in clients[2].find(IDENTITY)] == [run]


def begin(places: Places, everyone: Barrier, trial: int) -> int:
    """Make a run in a process that has seen that the database has no tables when all others have."""
    from mlflow.store.db import utils

    look, looked = utils._all_tables_exist, []

    def waiting(engine):
        found = look(engine)
        if not looked:
            looked.append(everyone.wait(WAIT))
        return found

    utils._all_tables_exist = waiting
    Client(places).open_run("a", {}, {**IDENTITY, "hdvae.trial": str(trial)})
    return 0


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """Places whose MLflow has no tables yet."""
    places = Places.under(tmp_path / "empty")
    if request.param == "sqlite":
        return places
    server = request.getfixturevalue("postgres")
    return dataclasses.replace(places, tracking=server.database(f"mlflow-{uuid.uuid4().hex}"))


def test_the_tables_are_made_once(empty):
    everyone = FORKING.Barrier(3)
    processes = [Forked(begin, empty, everyone, trial) for trial in range(3)]
    for done in [process.completed() for process in processes]:
        assert done.returncode == 0, done.stderr
    runs = Client(empty).find({"hdvae.study": IDENTITY["hdvae.study"]})
    assert sorted(run.trial for run in runs) == [0, 1, 2]
    assert sorted(file.name for file in empty.home.iterdir() if "mlflow" in file.name) in ([], ["mlflow.db"])
