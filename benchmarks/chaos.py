"""Kill what a study runs on, at random moments, and see that nothing is lost: `python -m benchmarks.chaos`.

A small real study on PostgreSQL and a real MLflow server. Victims are the driver (with its Ray), the process of a run,
the MLflow server and PostgreSQL; each is ended by SIGKILL, the servers are started again, and the driver by the same
command. At the end every study has to be what one is that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.common import report
from benchmarks.postgres import Postgres, free_port, running
from hdvae_platform.checkpointing import Journal, read_checkpoint
from hdvae_platform.fencing import standing
from hdvae_platform.places import Places
from hdvae_platform.storage import Storage
from hdvae_platform.tracking import Client

STEPS, EVERY = 1500, 50
VICTIMS = ("driver", "run", "MLflow server", "PostgreSQL")
ARMS = ("normal", "categorical")
LIMIT = 600
"""Seconds that one study may take."""
STUDY = """
name: {name}
claim: Nothing is lost.
experiment:
  data: {{path: {images}}}
  model: {{blocks: dense, width: 8, depth: 1, layers: [{{variables: 2, classes: 4}}, {{variables: 1, classes: 4}}]}}
  training: {{steps: {steps}, batch_size: 16, temperature: 0.5}}
  evaluation: {{every: {every}, images: 16, draws: 1, samples: 5, tau: [0.1]}}
space:
  model.latent: {{choices: [normal, categorical]}}
seeds: [0]
"""


@dataclass
class Stand:
    """Where studies run.

    Attributes:
        folder: of everything.
        postgres: the database server.
        database: URL of the study database.
        store: URL of MLflow's.
        port: of the MLflow server.
        server: its process.
    """

    folder: Path
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
        limit = time.monotonic() + 60
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
def stand() -> Iterator[Stand]:
    """All servers for some time."""
    folder = Path(tempfile.mkdtemp(prefix="hdvae-chaos-"))
    with running() as postgres:
        study, mlflow = (postgres.database(f"{kind}-{uuid.uuid4().hex[:8]}") for kind in ("study", "mlflow"))
        made = Stand(folder, postgres, study, mlflow)
        made.start_server()
        try:
            yield made
        finally:
            made.kill_server()
            shutil.rmtree(folder, ignore_errors=True)


def write_study(folder: Path, name: str) -> Path:
    """The study file, and its images beside it."""
    images = folder / "images.npz"
    if not images.exists():
        noise = np.random.RandomState(0)
        splits = {
            split: (noise.rand(count, 6, 5) < 0.3).astype(np.uint8)
            for split, count in (("train", 64), ("valid", 16), ("test", 16))
        }
        np.savez(images, **splits)  # type: ignore[arg-type]
    file = folder / f"{name}.yaml"
    file.write_text(STUDY.format(name=name, images=images, steps=STEPS, every=EVERY))
    return file


def processes_of_runs(driver: int) -> list[int]:
    """Process ids of the Ray workers that train below a driver."""
    lines = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in lines.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def below(pid: int) -> bool:
        while pid in parents and pid != driver:
            pid = parents[pid]
        return pid == driver

    return [int(pid) for pid, _, command in rows if command.startswith("ray::ImplicitFunc") and below(int(pid))]


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


def torment(place: Stand, file: Path, kills: int, chance: random.Random) -> Story:
    """Run a study to its end with so many kills on the way."""
    story, start = Story(), time.monotonic()
    driver: subprocess.Popen[str] | None = None
    while time.monotonic() - start < LIMIT:
        if driver is None:
            driver, story.launches = place.drive(file), story.launches + 1
        try:
            code = driver.wait(chance.uniform(2, 9) if len(story.kills) < kills else 5)
        except subprocess.TimeoutExpired:
            if len(story.kills) < kills:
                story.kills.append(kill(place, driver, chance))
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


def kill(place: Stand, driver: subprocess.Popen[str], chance: random.Random) -> str:
    """End a random victim; servers are started again at once. Returns who it was."""
    victim = chance.choice(VICTIMS)
    if victim == "run":
        training = processes_of_runs(driver.pid)
        if training:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(training), 9)
            return victim
        victim = "driver"  # Ray is still starting
    if victim == "driver":
        driver.kill()
        driver.wait()
    elif victim == "MLflow server":
        place.kill_server()
        time.sleep(chance.uniform(0, 3))
        place.start_server()
    else:
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
        snapshot = read_checkpoint(storage, f"{folder}/checkpoints/{last.removesuffix('.safetensors')}")
        tensors = b"".join(t.numpy().tobytes() for _, t in sorted(snapshot.tensors.items()))
        journal = Journal(storage, folder)
        points = {(m, s): v for s in journal.steps() for m, v in journal.entry(s).metrics.items()}
        out[arm] = tensors, points
    return out


def violations(place: Stand, name: str, expected: Result) -> list[str]:
    """Everything about a finished study that differs from one that was left alone."""
    found: list[str] = []
    places = Places.under(place.folder / "home")
    for arm, (tensors, points) in results(Storage(places.storage), name).items():
        if tensors != expected[arm][0]:
            found.append(f"{arm}: the final weights differ")
        if points != expected[arm][1]:
            found.append(f"{arm}: the journal differs")
    client = Client(Places(**{**vars(places), "tracking": place.environment["MLFLOW_TRACKING_URI"], "artifacts": None}))
    runs = list(client.find({"hdvae.study": name}))
    kinds = sorted(run.tags["hdvae.kind"] for run in runs)
    if kinds != ["run", "run", "study"]:
        found.append(f"MLflow has {kinds}")
    found += [f"MLflow: a {run.tags['hdvae.kind']} is {run.status}" for run in runs if run.status != "FINISHED"]
    for run in runs:
        if run.tags["hdvae.kind"] == "run":
            arm = ARMS[int(run.tags["hdvae.trial"])]
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
    return found


def series_violations(client: Client, run: str, arm: str, expected: dict[tuple[str, int], float]) -> list[str]:
    """Points that MLflow lacks, has twice or has with another value."""
    points = client.history(run)
    found = []
    if len(points) != len({point[:2] for point in points}):
        found.append(f"{arm}: MLflow has a point twice")
    if {(metric, step): value for metric, step, value in points} != expected:
        found.append(f"{arm}: MLflow's series differ")
    return found


def main() -> None:
    """Torment studies, print what happened to each, and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--studies", type=int, default=6)
    parser.add_argument("--kills", type=int, default=5, help="of each study")
    parser.add_argument("--seed", type=int, default=0, help="replays a schedule")
    options = parser.parse_args()
    stories: list[Story] = []
    with stand() as place:
        calm = torment(place, write_study(place.folder, "calm"), 0, random.Random(0))
        places = Places.under(place.folder / "home")
        expected = results(Storage(places.storage), "calm")
        print(f"left alone: {calm.seconds:.0f} s")
        print("| study | kills | launches | seconds | violations |\n|---|---|---:|---:|---|")
        for number in range(options.studies):
            name = f"chaos-{number}"
            story = torment(
                place, write_study(place.folder, name), options.kills, random.Random(f"{options.seed}/{number}")
            )
            story.violations += violations(place, name, expected)
            stories.append(story)
            cells = [name, ", ".join(story.kills), str(story.launches), f"{story.seconds:.0f}"]
            print(f"| {' | '.join(cells)} | {'; '.join(story.violations) or 'none'} |", flush=True)
        if any(story.violations for story in stories):
            shutil.copy(place.folder / "driver.log", "chaos-driver.log")
    kills = sum(len(story.kills) for story in stories)
    wrong = sum(len(story.violations) for story in stories)
    report("chaos", {"kills": {"value": kills, "limit": 30}, "violations": {"value": wrong, "limit": 0}})


if __name__ == "__main__":
    main()
