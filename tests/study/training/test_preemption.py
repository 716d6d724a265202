"""Processes and machines that are to be taken away, on a real Ray cluster: no step is lost, or done twice."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from hdvae_platform.store.journal import Journal
from hdvae_platform.store.storage import Storage
from tests.study.helpers.commands import Command
from tests.study.helpers.outcome import spec_of, tensors, tracked, train, wait_until, workers_of

STEPS, EVERY = 3000, 300
LONG = {
    "space": {},
    "seeds": [0],
    "experiment/training/steps": STEPS,
    "experiment/evaluation/every": EVERY,
    "experiment/training/batch_size": 32,
    "experiment/model/dropout": 0.0,
}


class Study:
    """The command at work on the cluster, on a study of one run."""

    def __init__(self, file, places, nodes):
        self.folder = places.home / "studies/small/trial-0000/seed-0"
        self.environment = {**os.environ, **nodes.environment, "HDVAE_HOME": str(places.home)}
        self._file, self._nodes = file, nodes

    def start(self):
        address = ["--address", self._nodes.address]
        self.driver = Command("study", "run", self._file, *address, environment=self.environment)

    def training(self, kind, attempt):
        """The processes that train, once an attempt has made a report and does steps again."""
        wait_until(lambda: self.checkpoints(attempt), 240)
        time.sleep(0.2)
        return self.processes(kind)

    def processes(self, kind):
        """Those of a kind, on all machines."""
        return [pid for node in self._nodes.nodes for pid in workers_of(node.pid, kind)]

    def checkpoints(self, attempt):
        """The manifests that an attempt wrote, and that are kept."""
        return sorted(self.folder.glob(f"checkpoints/*-{attempt:04d}.json"))

    def saved(self, attempt):
        """The step at which an attempt that was told to end did."""
        wait_until(lambda: list(self.folder.glob(f"attempts/{attempt + 1:04d}.json")), 240)
        taken = json.loads((self.folder / f"attempts/{attempt + 1:04d}.json").read_text())["checkpoints"]
        step, by = re.fullmatch(r"(\d+)-(\d+).safetensors", taken[-1]).groups()
        assert int(by) == attempt, taken
        return int(step)

    def end(self):
        """What the driver printed, once it has been told to end too."""
        self.driver.terminate()
        out, errors = self.driver.communicate(timeout=60)
        assert self.driver.returncode == 130, out + errors
        assert errors == "hdvae: interrupted; run the same command again to continue\n"
        return out

    def drain(self, pid):
        """Tell Ray that the machine of a process is to be taken away."""
        (node,) = (node for node in self._nodes.nodes if pid in workers_of(node.pid, ""))
        ray = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self._nodes.address]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        limit = ["--deadline-remaining-seconds", "120"]
        command = [*ray, "--node-id", node_id(workers_of(node.pid, "")), *reason, *limit]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)
        return self._nodes.nodes.index(node)

    def replace(self, index):
        """Another machine in the place of one that is taken away."""
        self._nodes.kill(index)
        self._nodes.replace(index)


def node_id(pids):
    """Ray's name for the node whose processes these are."""
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in pids]
    (found,) = {name for line in lines for name in re.findall(r"--node[-_]id=([0-9a-f]{56})", line)}
    return found


def alone(spec, folder):
    """What the run leaves where nothing happens: its last tensors, and its journal."""
    spec = replace(spec, storage=str(folder))
    assert train(spec).wait() == 0
    (expected,) = folder.glob(f"**/{STEPS:09d}-0001.safetensors")
    return expected.read_bytes(), Journal(Storage(spec.storage), spec.folder)


def test_a_run_loses_no_step_to_notices(nodes, places, edit, tmp_path):
    """SIGTERM to its process, its machine taken away, SIGTERM to the driver; then the same command ends it."""
    file = edit(LONG)
    study = Study(file, places, nodes)
    study.start()
    (first,) = study.training("ray::ImplicitFunc", 1)
    os.kill(first, signal.SIGTERM)
    steps = [study.saved(1)]
    assert steps[0] % EVERY, "it went on to the next report"
    (second,) = study.training("ray::ImplicitFunc", 2)
    gone = study.drain(second)
    steps.append(study.saved(2))
    (third,) = study.training("ray::ImplicitFunc", 3)
    assert third not in workers_of(nodes.nodes[gone].pid, "")
    study.replace(gone)
    said = study.end()
    for step in steps:
        assert f"small/0/0: its process was told to end, at step {step}; it is started again" in said
        assert f"small/0/0 goes on from step {step}" in said
    study.start()
    out, errors = study.driver.communicate(timeout=120)
    assert study.driver.returncode == 0, errors
    steps.append(study.saved(3))
    assert f"goes on from step {steps[-1]}" in out
    assert steps == sorted(steps)

    expected, series = alone(spec_of(file, places), tmp_path / "alone")
    assert tensors(places, 0, 0, STEPS) == expected
    journal = Journal(Storage(places.storage), "small/trial-0000/seed-0")
    assert journal.steps() == series.steps() == list(range(EVERY, STEPS + 1, EVERY))
    for step in journal.steps():
        assert journal.entry(step).metrics == series.entry(step).metrics
    assert [run.status for run in tracked(places)[1].values()] == ["FINISHED"]


def test_workers_that_train_together_end_together(nodes, places, edit):
    """One of them is told by SIGTERM, then by its machine's end, then the driver is."""
    study = Study(edit({**LONG, "resources": {"workers": 2, "concurrent": 1}}), places, nodes)
    study.start()
    workers = study.training("ray::RayTrainWorker", 1)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGTERM)
    steps = [study.saved(1)]
    assert steps[0] % EVERY, "it went on to the next report"
    gone = study.drain(study.training("ray::RayTrainWorker", 2)[0])
    wait_until(lambda: not study.processes("ray::RayTrainWorker"))
    study.replace(gone)  # what is left has no room for two workers
    steps.append(study.saved(2))
    study.training("ray::RayTrainWorker", 3)
    said = study.end()
    for step in steps:
        assert f"its process was told to end, at step {step}; it is started again" in said
    last = int(study.checkpoints(3)[-1].name[:9])
    assert last % EVERY
    assert last > steps[1] > steps[0]
    assert [run.status for run in tracked(places)[1].values()] == ["KILLED"]
