"""Studies on a real Ray cluster of separate node processes that wants a token."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import ray

from benchmarks.nodes import Hosts, can_have_hosts, cluster
from hdvae.errors import InputError
from hdvae.evaluation.metrics import COSTS
from hdvae_platform.cluster import connection, ray_internals
from hdvae_platform.cluster.connection import grows_to
from hdvae_platform.cluster.preflight import ANSWER_WAIT
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.storage import Storage
from tests.study.helpers.commands import command, made_anew
from tests.study.helpers.outcome import series, spec_of, tracked, train, wait_until
from tests.study.training.test_data_parallel import SMALL


def states(hdvae):
    """Of the runs of the small study."""
    return {row["state"] for row in json.loads(hdvae("study", "status", "small", "--json").stdout)["trials"]}


def test_a_pruned_run_of_two_workers_makes_room_for_the_next(places, edit, on_nodes):
    """Each run needs both nodes, so that one can begin only once the one before let go of them."""
    rates = {"training.learning_rate": {"choices": [0.002, 1e-9, 0.02]}}
    file = edit({**SMALL, "space": rates, "search": {"pruner": "asha"}, "experiment/training/steps": 40})
    done = on_nodes("study", "run", file)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting, 1 run at a time" in done.stdout
    assert "small/1/0 pruned at step 10, valid/elbo -" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    rows = json.loads(on_nodes("study", "status", "small", "--json").stdout)["trials"]
    assert [(row["number"], row["state"], row["attempts"]) for row in rows] == [
        (0, "COMPLETE", 1),
        (1, "PRUNED", 1),
        (2, "COMPLETE", 1),
    ]
    steps = [sorted({step for _, step in series(places, run.run_id)}) for run in tracked(places)[1].values()]
    assert steps[0] == steps[2] == [10, 20, 30, 40]
    assert steps[1] in ([10], [10, 20], [10, 20, 30]), "workers may get further while word of their report travels"


def test_a_cluster_is_joined_with_its_token_only(nodes, edit, on_nodes, monkeypatch):
    file = edit({})
    for name, value in (("RAY_AUTH_TOKEN", "wrong"), ("RAY_AUTH_MODE", "disabled")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            done = on_nodes("study", "run", file)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert f"--address {nodes.address}: the cluster requires its token: set RAY_AUTH_MODE=token" in done.stderr
    assert "no study small" in on_nodes("study", "status", "small").stderr


def test_every_machine_is_looked_at_before_anything_runs(nodes, places, edit, on_nodes, tmp_path):
    """A machine on which the storage is another file system, as a folder of the driver's own would be."""
    hidden = f'mkdir -p {places.storage} && mount -t tmpfs none {places.storage} && exec "$@"'
    with nodes.further(["unshare", "-m", "sh", "-c", hidden, "sh"]):
        done = on_nodes("study", "run", edit({}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert (
        f"storage {places.storage} is not the same there: set HDVAE_STORAGE to a folder or an s3:// addr" in done.stderr
    )
    assert "no study small" in on_nodes("study", "status", "small").stderr
    assert Storage(places.storage).list("small/preflight") == []


def test_a_machine_with_an_older_ray_is_named(nodes, edit, on_nodes, tmp_path):
    older = tmp_path / "older" / "ray-2.50.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 2.50.0\n")
    path = os.pathsep.join([str(older.parent), os.environ.get("PYTHONPATH", "")])
    with nodes.further(["env", f"PYTHONPATH={path}"]):
        done = on_nodes("study", "run", edit({}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"Ray is 2.50.0, the driver's is {ray.__version__}: install the same" in done.stderr


def test_a_study_does_not_begin_where_mlflow_is_out_of_reach(edit, on_nodes, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    done = on_nodes("study", "run", edit({}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "MLflow at http://127.0.0.1:1 does not answer: connection refused" in done.stderr
    assert "start it, or set MLFLOW_TRACKING_URI" in done.stderr
    assert "MLflow does not have everything" not in done.stdout, "it waited for what nobody needs"


def test_ctrl_c_is_heard_while_a_machine_does_not_answer(nodes, places, edit, on_nodes, start):
    with nodes.further() as node:
        os.killpg(node.pid, signal.SIGSTOP)
        driver = start("study", "run", edit({}))
        try:
            wait_until(lambda: Storage(places.storage).list("small/preflight"))
            driver.send_signal(signal.SIGINT)
            out, errors = driver.communicate(timeout=ANSWER_WAIT / 2)
        finally:
            os.killpg(node.pid, signal.SIGCONT)
    assert (driver.returncode, errors) == (130, "hdvae: interrupted; run the same command again to continue\n"), out
    assert states(on_nodes) == {"WAITING"}


def test_more_gpus_than_the_cluster_has(edit, on_nodes):
    done = on_nodes("study", "run", edit({**SMALL, "resources": {"workers": 2, "gpus_per_worker": 1}}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert re.search(r"a run needs 2 × 1 CPU and 2 × 1 GPU, but the cluster has . CPU and 0 GPU on . mach", done.stderr)


def test_two_peoples_studies_do_not_meet(places, edit, on_nodes, start):
    """At the same time on the same cluster, storage, database and MLflow: each is what it is alone."""
    two = [edit({"name": name, "space": {}}).read_text() for name in ("hers", "his")]
    drivers = []
    for name, text in zip(("hers", "his"), two, strict=True):
        file = places.home.parent / f"{name}.yaml"
        file.write_text(text)
        drivers.append(start("study", "run", file))
    for driver in drivers:
        _, errors = driver.communicate()
        assert driver.returncode == 0, errors
    documents = [json.loads(on_nodes("compare", name, "--json").stdout) for name in ("hers", "his")]
    assert [document["studies"] for document in documents] == [["hers"], ["his"]]
    hers, his = (document["arms"][0] for document in documents)
    one, other = ({name: arm["metrics"][name] for name in arm["metrics"].keys() - COSTS} for arm in (hers, his))
    assert one == other
    assert not set(hers["run_ids"]) & set(his["run_ids"])
    assert (hers["runs"], his["runs"]) == (2, 2)


@pytest.fixture
def job_server(tmp_path, monkeypatch):
    """The address of a cluster that takes jobs: what a shell elsewhere knows, beside the token."""
    with cluster((1,), jobs=True, home=tmp_path / "there") as nodes:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        for name, value in nodes.environment.items():
            monkeypatch.setenv(name, value)
        yield nodes.jobs


def test_a_submitted_study_is_followed_and_stopped_from_elsewhere(job_server, places, edit, hdvae, start):
    there = ["--address", job_server]
    refused = made_anew("study", "submit", edit({}), *there, RAY_AUTH_TOKEN="wrong")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "the cluster requires its token: set RAY_AUTH_MODE=token" in refused.stderr

    file = edit({"space": {}, "seeds": [0], "experiment/training/steps": 1_000_000})
    submitted = start("study", "submit", file, *there)
    told = []
    for line in submitted.stdout:
        told.append(line)
        if "/1000000 valid/elbo" in line:
            break
    assert told[0] == "submitted as job small; Ctrl-C leaves it running\n"
    assert "/1000000 valid/elbo" in told[-1], "".join(told)
    again = hdvae("study", "submit", file, *there)
    assert (again.returncode, again.stderr.count("\n")) == (2, 1), again.stderr
    assert "study small already runs there: `hdvae study status small --address http" in again.stderr
    status = json.loads(hdvae("study", "status", "small", "--json", *there).stdout)
    assert (status["state"], status["trials"][0]["state"]) == ("running", "RUNNING")
    assert "small was asked to stop" in hdvae("study", "stop", "small", *there).stdout
    rest, errors = submitted.communicate(timeout=120)
    assert submitted.returncode == 130, rest + errors
    assert "stopped before its end" in rest + errors
    assert not list(places.home.glob("studies/*")), "it left something here"

    done = hdvae("study", "submit", edit({"name": "other", "experiment/training/steps": 20}), *there)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs 1/1 · other/0/0 done" in done.stdout
    assert "Small things run fast." in done.stdout
    assert "INFO" not in done.stdout + done.stderr


@pytest.mark.skipif(not can_have_hosts(), reason="network namespaces need root, and ip and unshare")
def test_workers_on_separate_hosts_and_a_driver_that_is_not_on_the_head(places, edit, tmp_path):
    """Each host has an address of its own, and the name of the machine leads to the loopback."""
    file = edit(SMALL)
    hosts = Hosts((1, 1))
    try:
        words = command(["study", "run", file, "--address", hosts.address])
        environment = {**os.environ, **hosts.environment, "HDVAE_HOME": str(places.home)}
        done = subprocess.run(
            hosts.command(1, words), env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        hosts.end()
    spec = replace(spec_of(file, places), storage=str(tmp_path / "alone"))
    assert train(spec).wait() == 0
    together, alone = (
        {step: journal.entry(step).metrics["valid/elbo"] for step in (10, 20)}
        for journal in (Journal(Storage(root), spec.folder) for root in (places.storage, spec.storage))
    )
    assert together == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("ray://10.0.0.1:10001", "`hdvae study submit FILE.yaml --address http://10.0.0.1:8265` starts it there"),
        ("http://head:8265", "`hdvae study submit FILE.yaml --address http://head:8265` starts it there"),
        ("10.0.0.1", "give local, auto or HOST:PORT"),
        ("10.0.0.1:99999", "give local, auto or HOST:PORT"),
        ("127.0.0.1:1", "nothing answers there: Connection refused"),
    ],
)
def test_an_address_where_no_study_can_run(address, hint, edit, hdvae):
    done = hdvae("study", "run", edit({}), "--address", address)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"--address {address}: " in done.stderr
    assert hint in done.stderr


def test_what_a_cluster_grows_to_is_said_by_the_environment(monkeypatch):
    assert grows_to() == {}
    monkeypatch.setenv("HDVAE_GROWS_TO", "CPU=64,GPU=8")
    assert grows_to() == {"CPU": 64, "GPU": 8}


@pytest.mark.parametrize("text", ["64", "CPU=", "CPU=64,", "CPU=64;GPU=8", "CPU=-1"])
def test_what_a_cluster_grows_to_has_a_form(text, monkeypatch):
    monkeypatch.setenv("HDVAE_GROWS_TO", text)
    with pytest.raises(InputError, match="give the resources that the cluster may grow to"):
        grows_to()


def test_a_ray_that_is_open_to_everybody_is_refused(edit, hdvae, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    done = hdvae("study", "run", edit({}))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "RAY_AUTH_MODE is disabled: anybody who can reach this machine could run code on it" in done.stderr


def test_a_head_that_does_not_answer_in_time_is_not_called_open(monkeypatch):
    """It is asked twice: with the token, and without."""

    def ask(head, *, token):
        if not token:
            raise ConnectionError("Deadline Exceeded")

    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray_internals, "ask_head", ask)
    with pytest.raises(InputError, match=r"^--address 10.0.0.1:6379: no Ray head answers there: Deadline Exceeded$"):
        connection._check_access("10.0.0.1:6379", insecure=False)


def test_a_ray_that_was_imported_without_a_token_is_refused(monkeypatch):
    """As in a notebook that begins with `import ray`: Ray would ask for a token and show none."""
    monkeypatch.delenv("RAY_AUTH_MODE")
    script = "import ray; from hdvae_platform.cluster.connection import connected; connected().__enter__()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "InputError: ray was imported before hdvae_platform" in done.stderr


def test_a_cluster_that_is_open_to_everybody_is_refused(edit, hdvae, tmp_path):
    """It answers those who show no token, so it would answer anybody; `--insecure` goes on past that."""
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    script = [sys.executable, "-c", _OPEN_CLUSTER]
    with subprocess.Popen(script, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        try:
            refused = hdvae("study", "run", edit({}), "--address", address)
            accepted = hdvae(
                "study", "run", edit({"resources": {"cpus_per_worker": 7}}), "--address", address, "--insecure"
            )
        finally:
            server.stdin.close()
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert f"--address {address}: the cluster accepts commands from anybody who can reach it" in refused.stderr
    assert "a run needs 7 CPU, but the cluster has 1 CPU" in accepted.stderr


_OPEN_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
