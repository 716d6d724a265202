"""What a study left behind, and helpers to wait for it and to disturb it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from ipaddress import ip_address
from pathlib import Path

import mlflow
import psutil

from hdvae.evaluation.metrics import COSTS
from hdvae_platform.store.attempts import Attempt, Fenced
from hdvae_platform.store.checkpoints import Checkpoints
from hdvae_platform.store.images import load_data
from hdvae_platform.store.layout import run_folder
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking.client import Client
from hdvae_platform.training.messages import Reported, Resumed
from hdvae_platform.training.run import run
from hdvae_platform.training.spec import RunSpec
from tests.study.helpers.commands import Command, Forked
from tests.study.helpers.stand_in import NURSERY


def tracked(places):
    client = Client(places)
    runs = list(client.find({"hdvae.study": "small"}))
    parents = [run for run in runs if run.tags["hdvae.kind"] == "study"]
    children = {
        (int(run.tags["hdvae.trial"]), int(run.tags["hdvae.seed"])): run
        for run in runs
        if run.tags["hdvae.kind"] == "run"
    }
    assert len(runs) == len(parents) + len(children), "a trial × seed has two MLflow runs"
    return parents, children


def series(places, run_id):
    """Every stored point of a run but its costs, which are never the same twice: (metric, step) → (value, time)."""
    client = mlflow.MlflowClient(places.tracking)
    points = {}
    for metric in client.get_run(run_id).data.metrics.keys() - COSTS:
        for point in client.get_metric_history(run_id, metric):
            assert (metric, point.step) not in points, "a point is there twice"
            points[metric, point.step] = (point.value, point.timestamp)
    return points


def tensors(places, trial, seed, step=20):
    checkpoints = Checkpoints(Storage(places.storage), run_folder("small", trial, seed))
    return Path(checkpoints.address(step)).read_bytes()


def wait_until(condition, seconds=90):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and not condition():
        time.sleep(0.05)
    assert condition()


def started(words, places):
    """The command in the background, once a run of the small study has left a checkpoint."""
    process = Command(*words, environment={"HDVAE_HOME": str(places.home)}, pictures=False)
    wait_until(lambda: list(places.home.glob("studies/small/*/*/checkpoints/*.json")), 180)
    return process


def workers_of(driver, kind="ray::ImplicitFunc"):
    """Process ids of the Ray workers that train below a driver, or a node."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, *_ in rows}
    parents |= {worker: stand_in for stand_in, worker in stand_ins().items()}
    below = {driver}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return [int(row[0]) for row in rows if int(row[0]) in below and row[-1].startswith(kind)]


def listening(processes):
    """The addresses at which processes listen, on all of their ports; at least one of them does."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [one.laddr.ip for one in psutil.Process(process).net_connections() if one.status == "LISTEN"]
    assert found
    return [ip_address(address.removeprefix("::ffff:")) for address in found]


def stand_ins():
    """The processes that stand in for workers from the nursery: stand-in → worker."""
    found = {}
    for file in Path(os.environ[NURSERY]).glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # it has just ended, or begun
            found[int(file.name)] = int(file.read_text())
    return found


def spec_of(file, places):
    """What the first attempt at the only run of a study is given."""
    study = load_study(file)
    attempt = Attempt(Storage(places.storage), run_folder(study.name, 0, 0), 1)
    checksum = load_data(study.experiment, places.home).checksum
    return RunSpec.of(study.experiment, 0, attempt, places, threads=1, gpus=0, data_checksum=checksum)


def train(spec):
    """A run in a process of its own, which is nobody's: it prints its steps, and by whom it was shut out."""
    return Forked(_train, spec.plain())


def _print_step(message):
    if isinstance(message, Reported | Resumed):
        print("step", message.step, flush=True)


def _train(plain):
    try:
        run(RunSpec(**plain), _print_step)
    except Fenced as fence:
        print(fence, flush=True)
