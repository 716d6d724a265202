from __future__ import annotations

import dataclasses
import socket
import subprocess
import sys
import time

import mlflow
import pytest

from hdvae_platform.checkpointing import Entry
from hdvae_platform.tracking import Client, Tracker, Unreachable, contract_name, flattened, stored_name

IDENTITY = {"hdvae.study": "s", "hdvae.kind": "run", "hdvae.trial": "0"}


@pytest.mark.parametrize(
    "name", ["valid/elbo", "valid/surrogate_elbo@tau=0.05", "test/iw_elbo@S=1000", "train/kl/layer_1"]
)
def test_names_go_to_mlflow_and_back(name):
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(stored_name(name))
    assert contract_name(stored_name(name)) == name


def test_a_run_is_made_once(places):
    first = Client(places).open_run("a", {"extra": "x"}, IDENTITY)
    client = Client(places)
    client.close_run(first, "KILLED")
    assert client.open_run("a", {"extra": "x"}, IDENTITY) == first
    found = list(client.find(IDENTITY))
    assert [(run.run_id, run.status, run.tags["extra"]) for run in found] == [(first, "RUNNING", "x")]


def test_a_point_sent_twice_is_there_once(places):
    client = Client(places)
    run = client.open_run("a", {}, IDENTITY)
    entry = Entry(step=10, time=1_700_000_000_000, metrics={"valid/elbo": -1.0, "valid/iw_elbo@S=5": -0.5})
    for _ in range(3):
        client.log_entry(run, entry)
    history = mlflow.MlflowClient(places.tracking).get_metric_history(run, "valid/elbo")
    assert [(point.value, point.step, point.timestamp) for point in history] == [(-1.0, 10, 1_700_000_000_000)]
    assert next(client.find(IDENTITY)).metrics == {"valid/elbo": -1.0, "valid/iw_elbo@S=5": -0.5}


def test_find_reads_page_after_page(places, monkeypatch):
    client = Client(places)
    for trial in range(7):
        client.open_run("a", {}, {**IDENTITY, "hdvae.trial": str(trial)})
    search = client._client.search_runs
    pages = []

    def small_pages(*arguments, max_results, **others):
        pages.append(max_results)
        return search(*arguments, max_results=3, **others)

    monkeypatch.setattr(client._client, "search_runs", small_pages)
    assert len(list(client.find({"hdvae.study": "s"}))) == 7
    assert len(pages) == 3


def test_the_tracker_keeps_the_order(places):
    seen = []
    tracker = Tracker(places, pytest.fail)
    for i in range(20):
        tracker.send(lambda client, i=i: seen.append(i))
    assert tracker.close(30)
    assert seen == list(range(20))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_server_that_is_away_is_waited_for_and_said_once(places):
    """A real MLflow server that is started after the records were sent."""
    port = free_port()
    away = dataclasses.replace(places, tracking=f"http://127.0.0.1:{port}", artifacts=None)
    said = []
    tracker = Tracker(away, said.append)
    entry = Entry(step=1, time=1_700_000_000_000, metrics={"valid/elbo": -1.0})
    tracker.send(lambda client: client.log_entry(client.open_run("a", {}, IDENTITY), entry))
    time.sleep(5)
    assert len(said) == 1
    assert "training goes on" in said[0]
    arguments = ["--backend-store-uri", places.tracking, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert tracker.close(90)
    finally:
        server.terminate()
        server.wait(30)
    assert "answers again" in said[1]
    assert next(Client(places).find(IDENTITY)).metrics == {"valid/elbo": -1.0}


def test_a_store_that_stays_away_ends_the_patience(places):
    away = dataclasses.replace(places, tracking="http://127.0.0.1:9")
    tracker = Tracker(away, lambda line: None)
    tracker.send(lambda client: None)
    start = time.monotonic()
    assert not tracker.close(1)
    assert time.monotonic() - start < 15
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        Client(away)


def test_a_refused_record_is_said_and_the_rest_goes_on(places):
    said, seen = [], []
    tracker = Tracker(places, said.append)
    tracker.send(lambda client: client.set_tags("no-such-run", {"a": "b"}))
    tracker.send(lambda client: seen.append(1))
    assert not tracker.close(30)
    assert seen == [1]
    assert "refuses" in said[0]


def test_flattened_paths():
    plain = {"a": {"b": None}, "layers": [{"n": 1}, {"n": 2}], "tau": [0.1, 0.5], "points": [[0, 0.8]]}
    assert flattened(plain) == {
        "a.b": None,
        "layers.0.n": 1,
        "layers.1.n": 2,
        "tau": "[0.1, 0.5]",
        "points": "[[0, 0.8]]",
    }
