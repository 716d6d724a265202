"""Kill what a study runs on, at random moments, and see that nothing is lost: `python -m benchmarks.chaos`.

Small real studies on a real Ray cluster of several node processes, PostgreSQL and a real MLflow server; the runs of
every other study are trained by two workers on two nodes. Victims are the driver, the process of a run, one of its
workers, a node, the cluster's head together with the driver, the MLflow server and PostgreSQL. Each is ended by
SIGKILL; nodes and servers are started again, and the driver by the same command. At the end every study has to be what
one is that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import hdvae
from benchmarks.common import report
from benchmarks.nodes import Nodes, cluster
from benchmarks.postgres import Postgres, free_port, running
from hdvae.errors import InputError
from hdvae.evaluation.metrics import COSTS
from hdvae.training.checkpoints import encode, read_checkpoint
from hdvae.training.run_files import standing
from hdvae_platform.search.trials import known_trials
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.tracking import environment
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import MODEL_SCHEME, RunKind, Status, Tag

EVERY = 50
STEPS = {1: 1500, 2: 1000}
"""By the workers of a run: enough to be killed in."""
PAUSE = {1: (2.0, 9.0), 2: (4.0, 25.0)}
"""Seconds between two kills, by the workers of a run: those of several take longer to start."""
RUN, WORKER, DRIVER, NODE, HEAD = "run", "worker", "driver", "node", "head and driver"
MLFLOW, POSTGRES = "MLflow server", "PostgreSQL"
VICTIMS = {1: (RUN, DRIVER, NODE, HEAD, MLFLOW, POSTGRES), 2: (RUN, WORKER, DRIVER, NODE, HEAD, MLFLOW, POSTGRES)}
PROCESS = {RUN: "ray::ImplicitFunc", WORKER: "ray::RayTrainWorker"}
"""What Ray calls them."""
ARMS = ("normal", "categorical")
LIMIT = 900
"""Seconds that one study may take."""
STUDY = """
name: {name}
claim: Nothing is lost.
experiment:
  data: {{path: {images}}}
  model: {{blocks: dense, width: 8, depth: 1, layers: [{{variables: 2, classes: 4}}, {{variables: 1, classes: 4}}]}}
  training: {{steps: {steps}, batch_size: 32, temperature: 0.5}}
  evaluation: {{every: {every}, images: 16, draws: 1, samples: 5, tau: [0.1]}}
space:
  model.latent: {{choices: [normal, categorical]}}
seeds: [0]
resources: {{workers: {workers}}}
"""


@dataclass
class Stand:
    """Where studies run.

    Attributes:
        folder: of everything.
        nodes: the Ray cluster.
        postgres: the database server.
        database: URL of the study database.
        store: URL of MLflow's.
        port: of the MLflow server.
        server: its process.
    """

    folder: Path
    nodes: Nodes
    postgres: Postgres
    database: str
    store: str
    port: int = field(default_factory=free_port)
    server: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Of a driver."""
        return {
            **os.environ,
            **self.nodes.environment,
            "RAY_ADDRESS": self.nodes.address,
            "HDVAE_HOME": str(self.folder / "home"),
            "HDVAE_STUDY_DB": self.database,
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.port}",
        }

    def start_server(self) -> None:
        """Start the MLflow server and wait until it listens."""
        arguments = ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        arguments += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        self.server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        limit = time.monotonic() + 240  # on a busy machine
        while time.monotonic() < limit:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise TimeoutError("the MLflow server did not start")

    def kill_server(self) -> None:
        """SIGKILL to the server and its workers."""
        assert self.server is not None
        with suppress(ProcessLookupError):
            os.killpg(self.server.pid, 9)
        self.server.wait()

    def drive(self, file: Path) -> subprocess.Popen[str]:
        """Start the command of a user; its output is in `driver.log`."""
        log = (self.folder / "driver.log").open("a")
        command = [sys.executable, "-m", "hdvae_platform.cli", "study", "run", str(file)]
        return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, text=True)


@contextmanager
def stand(nodes: Nodes) -> Iterator[Stand]:
    """A cluster and all servers for some time."""
    folder = Path(tempfile.mkdtemp(prefix="hdvae-chaos-"))
    with running() as postgres:
        study, mlflow = (postgres.database(f"{kind}-{uuid.uuid4().hex[:8]}") for kind in ("study", "mlflow"))
        made = Stand(folder, nodes, postgres, study, mlflow)
        made.start_server()
        try:
            yield made
        finally:
            made.kill_server()
            shutil.rmtree(folder, ignore_errors=True)


def write_images(folder: Path) -> Path:
    """A file with a few small images; nothing is written where it is there already."""
    images = folder / "images.npz"
    if not images.exists():
        noise = np.random.RandomState(0)
        splits = {
            split: (noise.rand(count, 6, 5) < 0.3).astype(np.uint8)
            for split, count in (("train", 64), ("valid", 16), ("test", 16))
        }
        np.savez(images, **splits)  # type: ignore[arg-type]
    return images


def write_study(folder: Path, name: str, workers: int) -> Path:
    """The study file, and its images beside it."""
    images = write_images(folder)
    file = folder / f"{name}.yaml"
    settings = {"images": images, "steps": STEPS[workers], "every": EVERY, "workers": workers}
    file.write_text(STUDY.format(name=name, **settings))
    return file


@dataclass
class Story:
    """What happened to one study.

    Attributes:
        kills: victims in order.
        launches: how often the command was given.
        seconds: in all.
        violations: what was not as it should be.
    """

    kills: list[str] = field(default_factory=list)
    launches: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)


def torment(place: Stand, name: str, workers: int, kills: int, chance: random.Random) -> Story:
    """Run a study to its end with so many kills on the way."""
    file = write_study(place.folder, name, workers)
    story, start = Story(), time.monotonic()
    driver: subprocess.Popen[str] | None = None
    while time.monotonic() - start < LIMIT:
        if driver is None:
            driver, story.launches = place.drive(file), story.launches + 1
        try:
            code = driver.wait(chance.uniform(*PAUSE[workers]) if len(story.kills) < kills else 5)
        except subprocess.TimeoutExpired:
            if len(story.kills) < kills:
                story.kills.append(kill(place, driver, chance.choice(VICTIMS[workers]), chance))
            continue
        driver = None
        if code == 0:
            story.seconds = time.monotonic() - start
            return story
        time.sleep(1)
    if driver is not None:
        driver.kill()
        driver.wait()
    story.violations.append(f"not at its end after {LIMIT} s")
    return story


def kill(place: Stand, driver: subprocess.Popen[str], victim: str, chance: random.Random) -> str:
    """End a victim; nodes and servers are started again soon after. Returns who it was."""
    if victim in PROCESS:
        found = place.nodes.processes(PROCESS[victim])
        if found:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(found), 9)
            return victim
        victim = DRIVER  # nothing trains at the moment
    if victim in (DRIVER, HEAD):
        driver.kill()
        driver.wait()
    if victim == HEAD:
        place.nodes.restart()
    elif victim == NODE:
        index = chance.randrange(len(place.nodes.nodes))
        place.nodes.kill(index)
        time.sleep(chance.uniform(0, 3))
        place.nodes.replace(index)
    elif victim == MLFLOW:
        place.kill_server()
        time.sleep(chance.uniform(0, 3))
        place.start_server()
    elif victim == POSTGRES:
        place.postgres.kill()
        time.sleep(chance.uniform(0, 3))
        place.postgres.start()
    return victim


Result = dict[str, tuple[bytes, dict[tuple[str, int], float]]]
"""For each arm the bytes of all final tensors, and every metric point of the journal."""


def results(storage: Storage, name: str) -> Result:
    """What the runs of a study left on the storage."""
    out: Result = {}
    for trial, arm in enumerate(ARMS):
        folder = f"{name}/trial-{trial:04d}/seed-0"
        last = [f for f in standing(storage, folder, "checkpoints") if f.endswith(".safetensors")][-1]
        snapshot = read_checkpoint(storage, folder, f"checkpoints/{last.removesuffix('.safetensors')}")
        tensors = b"".join(t.numpy().tobytes() for _, t in sorted(snapshot.tensors.items()))
        journal = Journal(storage, folder)
        points = {(m, s): v for s in journal.steps() for m, v in journal.entry(s).metrics.items()}
        out[arm] = tensors, points
    return out


def repeated(storage: Storage, name: str) -> list[str]:
    """Attempts that began further back than one interval before the last report of those before."""
    found: list[str] = []
    for trial in range(len(ARMS)):
        folder = f"{name}/trial-{trial:04d}/seed-0"
        for record in storage.list(f"{folder}/attempts"):
            stood = json.loads(storage.read(f"{folder}/attempts/{record}"))
            whole = {
                kind: [int(n[:9]) for n in stood[kind] if n.endswith(".json")] for kind in ("journal", "checkpoints")
            }
            reported, kept = (max(whole[kind], default=0) for kind in ("journal", "checkpoints"))
            if reported - kept > EVERY:
                found.append(f"{ARMS[trial]}: {reported} steps were reported, and it went on from {kept}")
    return found


def violations(place: Stand, name: str, expected: Result) -> list[str]:
    """Everything about a finished study that differs from one that was left alone."""
    found: list[str] = []
    places = Places.under(place.folder / "home")
    found += repeated(Storage(places.storage), name)
    for arm, (tensors, points) in results(Storage(places.storage), name).items():
        if tensors != expected[arm][0]:
            found.append(f"{arm}: the final weights differ")
        if points != expected[arm][1]:
            found.append(f"{arm}: the journal differs")
    client = Client(Places(**{**vars(places), "tracking": place.environment["MLFLOW_TRACKING_URI"], "artifacts": None}))
    runs = list(client.find({Tag.STUDY: name}))
    kinds = sorted(run.kind for run in runs)
    if kinds != [RunKind.SEARCH, RunKind.SEARCH, RunKind.STUDY]:
        found.append(f"MLflow has {kinds}")
    found += [f"MLflow: a {run.kind} is {run.status}" for run in runs if run.status != Status.FINISHED]
    for run in runs:
        if run.kind == RunKind.SEARCH:
            arm = ARMS[run.trial]
            found += series_violations(client, run.run_id, arm, expected[arm][1])
    status = json.loads(
        subprocess.run(
            [sys.executable, "-m", "hdvae_platform.cli", "study", "status", name, "--json"],
            env=place.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    found += [f"trial {row['number']} is {row['state']}" for row in status["trials"] if row["state"] != "COMPLETE"]
    ends = [max(expected[arm][1], key=lambda point: point[1], default=("", 0))[1] for arm in ARMS]
    told = known_trials(load_study(place.folder / f"{name}.yaml"), place.database)
    values = [(trial.state, trial.value) for trial in told]
    if values != [("COMPLETE", expected[arm][1].get(("valid/elbo", end))) for arm, end in zip(ARMS, ends, strict=True)]:
        found.append(f"Optuna has {values}")
    best = max(told, key=lambda trial: -math.inf if trial.value is None else trial.value).number
    (run,) = (run for run in runs if run.tags.get(Tag.TRIAL) == str(best))
    return found + registry_violations(client, name, run.tags[Tag.CHECKPOINT])


def registry_violations(client: Client, name: str, checkpoint: str) -> list[str]:
    """What is wrong with the registered model of a study, of which there is one, with the weights of the best run."""
    try:
        trained = [hdvae.load(checkpoint), client.registered(f"{MODEL_SCHEME}{name}/latest")]
    except InputError as fault:
        return [f"MLflow's registry: {fault}"]
    found = []
    if len({encode(model.snapshot(), model.step)[0] for model in trained}) > 1:
        found.append("MLflow's registry has another model than the best one")
    with suppress(InputError):
        client.registered(f"{MODEL_SCHEME}{name}/2")
        found.append("MLflow's registry has a second model")
    return found


def series_violations(client: Client, run: str, arm: str, expected: dict[tuple[str, int], float]) -> list[str]:
    """Points that MLflow lacks, has twice or has with another value; what a run cost is never the same twice."""
    points = client.history(run)
    found = []
    if len(points) != len({point[:2] for point in points}):
        found.append(f"{arm}: MLflow has a point twice")
    if {(metric, step): value for metric, step, value in points if metric not in COSTS} != expected:
        found.append(f"{arm}: MLflow's series differ")
    return found


def main() -> None:
    """Torment studies, print what happened to each, and the bars."""
    environment.configure()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--kills", type=int, default=5, help="of each study")
    parser.add_argument("--seed", type=int, default=0, help="replays a schedule")
    options = parser.parse_args()
    with cluster((1, 1)) as nodes, stand(nodes) as place:
        places = Places.under(place.folder / "home")
        expected = {}
        for workers in STEPS:
            calm = torment(place, f"calm-{workers}", workers, 0, random.Random(0))
            expected[workers] = results(Storage(places.storage), f"calm-{workers}")
            print(f"left alone, {workers} to a run: {calm.seconds:.0f} s", flush=True)
        print("| study | workers | kills | launches | seconds | violations |\n|---|---:|---|---:|---:|---|")
        stories = [
            story(place, number, expected, options.kills, random.Random(f"{options.seed}/{number}"))
            for number in range(options.studies)
        ]
        if any(story.violations for story in stories):
            shutil.copy(place.folder / "driver.log", "chaos-driver.log")
    kills = sum(len(story.kills) for story in stories)
    wrong = sum(len(story.violations) for story in stories)
    report("chaos", {"kills": {"value": kills, "limit": 30}, "violations": {"value": wrong, "limit": 0}})


def story(place: Stand, number: int, expected: Mapping[int, Result], kills: int, chance: random.Random) -> Story:
    """Torment one study, and print what happened."""
    name, workers = f"chaos-{number}", 1 + number % 2
    told = torment(place, name, workers, kills, chance)
    told.violations += violations(place, name, expected[workers])
    cells = [name, str(workers), ", ".join(told.kills), str(told.launches), f"{told.seconds:.0f}"]
    print(f"| {' | '.join(cells)} | {'; '.join(told.violations) or 'none'} |", flush=True)
    return told


if __name__ == "__main__":
    main()
