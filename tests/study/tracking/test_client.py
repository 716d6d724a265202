from __future__ import annotations

import dataclasses
import http.server
import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import pytest

from benchmarks.postgres import free_port
from hdvae_platform.running.upload import RunUpload
from hdvae_platform.store.journal import Entry
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.faults import Unreachable
from hdvae_platform.tracking.names import contract_name, flattened, stored_name
from hdvae_platform.tracking.saved_view import view_of
from hdvae_platform.tracking.tracker import Tracker
from tests.study.helpers.mlflow_server import serving

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


def test_mlflows_page_has_a_view_of_a_study_until_it_is_deleted(places):
    client, mlflow_client = Client(places), mlflow.MlflowClient(places.tracking)
    assert "&searchFilter=tags.%60hdvae.study%60%20%3D%20%27first%27" in client.runs_page("first")
    client.show_study("first", view_of("first", ["valid/elbo", "valid/iw_elbo@S=5"], ["seed"], maximise=True))
    page = "/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=first"
    assert client.runs_page("first") == page
    tags = mlflow_client.get_experiment("1").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(json.loads(tags["mlflow.sharedViewState.first"])["state"])
    assert view["selectedColumns"] == ["metrics.`valid/elbo`", "metrics.`valid/iw_elbo at S 5`", "params.`seed`"]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`valid/elbo`", False)
    mlflow_client.set_experiment_tag("1", "mlflow.sharedViewState.first", "a user's")
    client.show_study("first", {})
    assert mlflow_client.get_experiment("1").tags["mlflow.sharedViewState.first"] == "a user's"
    for _ in range(2):
        client.forget_view("first")
    assert client.runs_page("first") != page


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
    assert (
        said[0]
        == f"MLflow at http://127.0.0.1:{port} does not answer: connection refused; training does not wait for it"
    )
    with serving(places.tracking, port=port, wait=False):
        assert tracker.close(90)
    assert "answers again" in said[1]
    assert next(Client(places).find(IDENTITY)).metrics == {"valid/elbo": -1.0}


def test_a_store_that_stays_away_ends_the_patience(places):
    away = dataclasses.replace(places, tracking="http://127.0.0.1:9")
    tracker = Tracker(away, lambda line: None)
    tracker.send(lambda client: None)
    start = time.monotonic()
    assert not tracker.close(1)
    assert time.monotonic() - start < 15
    with pytest.raises(Unreachable, match=r"^MLflow at http://127\.0\.0\.1:9 does not answer: connection refused$"):
        Client(away)


def test_a_refused_record_is_said_and_the_rest_goes_on(places):
    said, seen = [], []
    tracker = Tracker(places, said.append)
    tracker.send(lambda client: client.set_tags("no-such-run", {"a": "b"}))
    tracker.send(lambda client: seen.append(1))
    assert not tracker.close(30)
    assert seen == [1]
    assert "no-such-run" in said[0]


def test_a_fault_in_a_job_is_said_and_does_not_end_the_others(places):
    said, seen = [], []
    tracker = Tracker(places, said.append)
    tracker.send(lambda client: 1 / 0)
    tracker.send(lambda client: (Path("/nowhere") / "file").read_bytes())
    tracker.send(lambda client: seen.append(1))
    assert not tracker.close(30)
    assert seen == [1]
    assert len(said) == 2
    assert "division by zero" in said[0]


def test_a_locked_database_is_waited_for(places, tmp_path):
    """Another connection holds the lock of the study database for a while."""
    tables = Records(f"sqlite:///{tmp_path}/db?timeout=0.1")
    tables.add_run("s", 0, 0)
    holder = sqlite3.connect(tmp_path / "db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    tracker = Tracker(places, lambda line: None)
    tracker.send(lambda client: tables.set_run("s", 0, 0, run_id="found"))
    time.sleep(1)
    holder.execute("ROLLBACK")
    holder.close()
    assert tracker.close(30)
    assert tables.runs("s")[0].run_id == "found"


def test_a_lost_answer_does_not_make_a_second_run(places):
    """A proxy that passes the request on and loses the answer: the run is made, and then found."""
    lossy, lost = free_port(), []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
            headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            request = urllib.request.Request(f"{server}{self.path}", body, headers, method=self.command)
            try:
                with urllib.request.urlopen(request) as answer:
                    status, data = answer.status, answer.read()
            except urllib.error.HTTPError as fault:
                status, data = fault.code, fault.read()
            if self.path.endswith("runs/create") and not lost:
                lost.append(self.path)
                status, data = 502, b"{}"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = forward  # noqa: N815 - http.server asks for these names

        def log_message(self, *arguments):
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", lossy), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with serving(places.tracking) as server:
        try:
            through = dataclasses.replace(places, tracking=f"http://127.0.0.1:{lossy}", artifacts=None)
            tracker = Tracker(through, lambda line: None)
            upload = RunUpload("a", IDENTITY, {}, {}, Storage(places.storage), "s/trial-0000/seed-0", new=True)
            tracker.send(upload.open)
            assert tracker.close(60)
        finally:
            proxy.shutdown()
    assert lost
    assert len(list(Client(places).find(IDENTITY))) == 1


def test_a_name_with_a_quote_is_nobodys(places):
    assert list(Client(places).find({"hdvae.study": "x'y"})) == []


def test_flattened_paths():
    plain = {"a": {"b": None}, "layers": [{"n": 1}, {"n": 2}], "tau": [0.1, 0.5], "points": [[0, 0.8]]}
    assert flattened(plain) == {
        "a.b": None,
        "layers.0.n": 1,
        "layers.1.n": 2,
        "tau": "[0.1, 0.5]",
        "points": "[[0, 0.8]]",
    }
