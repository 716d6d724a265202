"""What a study of 10,000 trials costs beside its training: `python -m benchmarks.trials`.

Nothing is trained: the journals of the runs are written by this process, on a clock of its own. The rest is real:
the searcher, the pruner, the study database, the storage and MLflow's store are those of a study, called as Tune calls
them, and each trial waits until MLflow has what it left, so that nothing is hidden in a queue.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import yaml

from benchmarks.common import Bar, report
from benchmarks.postgres import running
from hdvae_platform.checkpointing import Journal
from hdvae_platform.fencing import Attempt
from hdvae_platform.launch import Driver, StudyCallback, StudySearcher, StudyStopper
from hdvae_platform.places import Places
from hdvae_platform.records import Records, connect
from hdvae_platform.search import Search, known_trials
from hdvae_platform.storage import Storage
from hdvae_platform.study import Study, load_study
from hdvae_platform.tracking import Client, Tracker
from hdvae_platform.upload import STATUSES, StudyTracking

Backend = Literal["sqlite", "postgresql"]
STEPS, EVERY = 400, 100
CONCURRENT = 4
SECONDS = 60.0
"""That a report takes, on the clock of the simulation."""
EARLY = 100
"""The trial at which overhead is measured first."""
RATIO, GROWTH = 1.5, 1.2
PARTS = ("suggest", "tell", "log")
STUDY: dict[str, Any] = {
    "name": "many",
    "claim": "The ten-thousandth trial costs what the hundredth did.",
    "experiment": {
        "data": {"path": "images.npz"},
        "model": {
            "blocks": "dense",
            "width": 8,
            "depth": 1,
            "layers": [{"variables": 2, "classes": 4}, {"variables": 1, "classes": 4}],
        },
        "training": {"steps": STEPS, "batch_size": 16, "temperature": 0.5},
        "evaluation": {"every": EVERY, "images": 16, "draws": 1, "samples": 5, "tau": [0.1]},
    },
    "space": {
        "training.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "training.freebits": {"low": 0.1, "high": 4.0},
        "model.width": {"low": 4, "high": 64},
        "training.temperature": {"choices": [0.1, 0.5, [[0, 0.8], [400, 0.1]]]},
    },
    "seeds": [0],
    "resources": {"concurrent": CONCURRENT},
}
METRICS = ("elbo", "iw_elbo@S=5", "surrogate_elbo", "relaxation_bias", "kl", "kl/layer_1", "kl/layer_2", "distortion")


@dataclass
class Cost:
    """What one trial cost, in seconds."""

    suggest: float = 0.0
    tell: float = 0.0
    log: float = 0.0

    @property
    def whole(self) -> float:
        """All of it."""
        return self.suggest + self.tell + self.log


@dataclass
class Outcome:
    """A study of many trials, after it.

    Attributes:
        costs: of the trials in the order in which they ended.
        memory: bytes of this process's memory after so many trials.
        seconds: that it took in all.
        restart: seconds that the next launch would take to read it.
        states: how many trials are in which state.
        violations: what is not as it should be.
    """

    costs: list[Cost] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0
    restart: float = 0.0
    states: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def around(self, trial: int, part: str) -> float:
        """The median milliseconds of the hundred trials around one, the last hundred at the end."""
        first = max(0, min(trial - EARLY // 2, len(self.costs) - EARLY))
        return 1000 * statistics.median(getattr(cost, part) for cost in self.costs[first : first + EARLY])

    @property
    def growth(self) -> float:
        """Overhead at the last trials over that at the hundredth."""
        return self.around(len(self.costs), "whole") / self.around(EARLY, "whole")


class Simulation:
    """Runs that train nothing, driven as Tune drives real ones.

    Args:
        study: what to run.
        places: where.
    """

    def __init__(self, study: Study, places: Places) -> None:
        self.study, self.places, self.now = study, places, 0.0
        self.records, self.storage = Records(connect(places.database)), Storage(places.storage)
        self.records.define(study.name, study.definition(), study.plan(), {})
        self.records.take(study.name, "benchmark")
        self.tracker = Tracker(places, print)
        self.tracking = StudyTracking(study, self.tracker, self.records, self.storage, "")
        self.search = Search(study, places.database, self.records)
        self.driver = Driver(
            study, places, self.search, self.tracking, Event(), lambda line: None, clock=lambda: self.now
        )
        self.searcher, self.stopper = StudySearcher(self.driver), StudyStopper(self.driver)
        self.callback = StudyCallback(self.driver)
        self.live: deque[tuple[SimpleNamespace, dict[str, Any], Cost]] = deque()

    def run(self, mark: Callable[[int], None]) -> list[Cost]:
        """All trials; `mark` is told how many have ended."""
        costs: list[Cost] = []
        while self._fill():
            trial, spec, cost = self.live.popleft()
            if self._advance(trial, spec, cost):
                costs.append(cost)
                mark(len(costs))
            else:
                self.live.append((trial, spec, cost))
            if self.driver.fault is not None:
                raise self.driver.fault
        return costs

    def end(self) -> None:
        """As a driver ends."""
        self.driver.end_study()
        self.tracker.close(60)
        self.records.release(self.study.name, "benchmark")

    def _fill(self) -> bool:
        """Start runs while there is room; whether any run is live."""
        while len(self.live) < CONCURRENT:
            trial, cost = SimpleNamespace(trial_id=uuid.uuid4().hex[:8], last_result={"step": 0}), Cost()
            with timed(cost, "suggest"):
                spec = self.searcher.suggest(trial.trial_id)
            if not isinstance(spec, dict):
                break
            self._drain(cost)
            self.live.append((trial, spec, cost))
        return bool(self.live)

    def _advance(self, trial: SimpleNamespace, spec: dict[str, Any], cost: Cost) -> bool:
        """One report of a run, or its end; whether it ended."""
        step = trial.last_result["step"] + EVERY
        self.now += SECONDS
        if step <= STEPS:
            self._train(trial, spec, step)
        else:
            trial.last_result = {**trial.last_result, "completed": True}
        with timed(cost, "tell"):
            over = step > STEPS or self.stopper(trial.trial_id, trial.last_result)
            if step <= STEPS:
                self.callback.on_trial_result(0, [], trial, trial.last_result)
            if over:
                self.callback.on_trial_complete(0, [], trial)
        self._drain(cost)
        return over

    def _train(self, trial: SimpleNamespace, spec: dict[str, Any], step: int) -> None:
        """What the process of a run leaves, and says."""
        experiment = spec["experiment"]
        quality = -100 - 5 * abs(math.log10(experiment["training"]["learning_rate"]) + 3) - spec["attempt"] / step
        metrics = {f"valid/{name}": quality - 10 * i for i, name in enumerate(METRICS)}
        attempt = Attempt(self.storage, spec["folder"], spec["attempt"])
        Journal(self.storage, spec["folder"], clock=lambda: self.now).append(step, metrics, attempt)
        trial.last_result = {"step": step, "metrics": metrics}

    def _drain(self, cost: Cost) -> None:
        """Wait until MLflow has everything."""
        done = Event()
        with timed(cost, "log"):
            self.tracker.send(lambda client: done.set())
            done.wait()


@contextmanager
def timed(cost: Cost, part: str) -> Iterator[None]:
    """Add the seconds inside to a part of a trial's cost."""
    start = time.perf_counter()
    yield
    setattr(cost, part, getattr(cost, part) + time.perf_counter() - start)


def write_study(folder: Path, method: str, trials: int, pruner: str | None) -> Study:
    """The study, with the images that its file names."""
    images = np.zeros((16, 6, 5), dtype=np.uint8)
    np.savez(folder / "images.npz", train=images, valid=images, test=images)
    search = {"method": method, "trials": trials, **({"pruner": pruner} if pruner else {})}
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "search": search}, sort_keys=False))
    return load_study(file)


def resident() -> int:
    """Bytes of memory that this process holds; Linux says it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def simulate(folder: Path, database: str, store: str, method: str, trials: int, pruner: str | None) -> Outcome:
    """Run a study of many trials on empty databases."""
    places = Places(folder, database, store, (folder / "artifacts").as_uri(), str(folder / "studies"))
    outcome, start = Outcome(), time.perf_counter()
    study = write_study(folder, method, trials, pruner)
    simulation = Simulation(study, places)

    def mark(ended: int) -> None:
        if ended in (trials // 10, trials):
            outcome.memory[ended] = resident()

    outcome.costs = simulation.run(mark)
    simulation.end()
    outcome.seconds = time.perf_counter() - start
    began = time.perf_counter()
    again = Search(study, database, simulation.records)
    outcome.restart = time.perf_counter() - began
    outcome.states = Counter(run.state for run in again.runs())
    outcome.violations = violations(study, places, simulation.records, again, trials)
    return outcome


def violations(study: Study, places: Places, records: Records, again: Search, trials: int) -> list[str]:
    """What is not as a study of so many trials should leave it."""
    found = []
    runs = {run.trial: run for run in records.runs(study.name)}
    told = {trial.number: trial for trial in known_trials(study, places.database)}
    if sorted(runs) != list(range(trials)) or sorted(told) != list(range(trials)):
        return [f"{len(runs)} runs and {len(told)} trials instead of {trials}"]
    if again.has_work():
        found.append("there is work left")
    for number, run in runs.items():
        if run.state not in ("COMPLETE", "PRUNED") or run.state != told[number].state or not run.tracked:
            found.append(f"trial {number}: the run is {run.state}, the trial {told[number].state}, tracked {run.tracked}")
    tracked = Counter(
        (int(run.tags["hdvae.trial"]), run.run_id, run.status)
        for run in Client(places).find({"hdvae.study": study.name, "hdvae.kind": "run"})
    )
    expected = Counter((number, run.run_id, STATUSES[run.state]) for number, run in runs.items())
    found += [f"MLflow lacks {lacking}" for lacking in expected - tracked]
    found += [f"MLflow has {extra}" for extra in tracked - expected]
    return found


def simulate_on(backend: Backend, method: str, trials: int, pruner: str | None) -> Outcome:
    """The same on new databases of a kind, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="hdvae-trials-") as folder:
        if backend == "sqlite":
            addresses = [f"sqlite:///{folder}/{kind}.db" for kind in ("study", "mlflow")]
            return simulate(Path(folder), addresses[0], addresses[1], method, trials, pruner)
        with running() as server:
            return simulate(Path(folder), server.database("study"), server.database("mlflow"), method, trials, pruner)
