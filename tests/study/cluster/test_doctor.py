"""The doctor, on parts that work and on parts that are really broken."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.postgres import free_port
from hdvae.data.parquet import parquet_path
from hdvae.errors import InputError
from hdvae_platform.cluster import doctor
from hdvae_platform.cluster.doctor import Unfit
from hdvae_platform.store import datasets
from tests.study.helpers.commands import made_anew

PARTS = ["Python", "versions", "torch", "GPU", "Ray", "storage", "database", "tracking", "data", "clock"]
SECRET = "a-secret-word"


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in json.loads(done.stdout)["checks"]}


def test_a_machine_that_can_do_the_job(hdvae, places):
    datasets.fetch(places.home, "mnist5k")
    done = hdvae("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == PARTS
    assert {line[1] for line in lines} == {"OK"}
    assert sorted(path.name for path in places.home.glob("studies/*")) == []


def test_everything_broken_at_once_gets_a_line_each(places, postgres, tmp_path, monkeypatch):
    in_the_way = tmp_path / "a-file"
    in_the_way.touch()
    closed = free_port()
    old = tmp_path / "old/ray-2.40.0.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.40.0\n")
    monkeypatch.setenv("PYTHONPATH", f"{old.parent}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("HDVAE_STORAGE", str(in_the_way))
    monkeypatch.setenv("HDVAE_STUDY_DB", postgres.user("patient", SECRET).replace(SECRET, f"not-{SECRET}"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:{SECRET}@127.0.0.1:{closed}")
    done = made_anew("doctor", "--json", "--address", f"127.0.0.1:{closed}", HDVAE_HOME=str(places.home))
    assert done.returncode == 1
    found = findings(done)
    assert {name for name, one in found.items() if one["ok"]} == {"Python", "torch", "GPU"}
    for name, what, remedy in (
        ("versions", "ray is 2.40.0, must be <2.61,>=2.56", "pip install --upgrade hdvae"),
        ("Ray", f"127.0.0.1:{closed}", "nothing answers there"),
        ("storage", str(in_the_way), "set HDVAE_STORAGE"),
        ("database", "password authentication failed", "check HDVAE_STUDY_DB"),
        ("tracking", f"127.0.0.1:{closed}", "check MLFLOW_TRACKING_URI"),
        ("data", f"no data set in {places.home}", "hdvae data fetch mnist5k"),
        ("clock", "password authentication failed", "check HDVAE_STUDY_DB"),
    ):
        assert what in found[name]["says"], found[name]
        assert remedy in found[name]["says"], found[name]
        assert "\n" not in found[name]["says"]
    assert SECRET not in done.stdout + done.stderr


@pytest.fixture
def head(tmp_path_factory, monkeypatch):
    """The address of a Ray head, a process of its own, that asks for a token; the token is in the environment."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", SECRET)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    port = free_port()
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=3", f"--port={port}"]
    ray += [f"--ray-client-server-port={free_port()}", "--include-dashboard=false"]
    folder = tempfile.mkdtemp(prefix="ray-")  # a socket's path must be short
    ray += [f"--temp-dir={folder}"]
    with subprocess.Popen(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_with_a_token(head, monkeypatch):
    limit = time.monotonic() + 120
    while True:
        try:
            found = doctor.check_ray(head)
            break
        except InputError:  # it is not up yet
            assert time.monotonic() < limit
            time.sleep(1)
    assert found == f"{head}: machines 1, CPUs 3, GPUs 0"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another-secret-word")
    with pytest.raises(InputError, match="the cluster requires its token: set RAY_AUTH_MODE=token"):
        doctor.check_ray(head)


def test_an_address_that_is_none():
    with pytest.raises(InputError, match="give local, auto or HOST:PORT"):
        doctor.check_ray("nonsense")


class Late(http.server.BaseHTTPRequestHandler):
    """A server whose clock is 100 seconds behind."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        return super().date_time_string(time.time() - 100)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"3.17.2")

    def log_message(self, *args: object) -> None:
        """Say nothing in the tests' output."""


def test_a_clock_that_differs(places, postgres):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Late) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        late = replace(places, tracking=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(Unfit, match=r"MLflow's clock differs by 1 min [34][0-9] s.*NTP"):
            doctor.check_clock(late)
        server.shutdown()
    agreeing = replace(places, database=postgres.database("clock"))
    assert doctor.check_clock(agreeing) == "agrees with the database"


def test_damaged_data(places):
    datasets.fetch(places.home, "mnist5k")
    assert "mnist5k" in doctor.check_data(places)
    file = parquet_path(places.home, "mnist5k")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(Unfit, match=r"mnist5k is damaged.*hdvae data fetch"):
        doctor.check_data(places)


def test_a_gpu_that_torch_cannot_use(tmp_path):
    device = tmp_path / "nvidia0"
    assert "gpus_per_worker: 0" in doctor.check_gpu(device)
    device.touch()
    with pytest.raises(Unfit, match="install the torch build for this driver"):
        doctor.check_gpu(device)
