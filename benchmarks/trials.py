"""What a study of 10,000 trials costs beside its training: `python -m benchmarks.trials`.

Nothing is trained: the journals of the runs are written by this process, on a clock of its own. The rest is real:
the searcher, the pruner, the study database, the storage and MLflow's store are those of a study, called as Tune calls
them, and each trial waits until MLflow has what it left, so that nothing is hidden in a queue.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import yaml

from benchmarks.common import Bar, report
from benchmarks.postgres import running
from hdvae_platform.running.driver import Driver
from hdvae_platform.running.tune_adapters import StudyCallback, StudySearcher, StudyStopper
from hdvae_platform.running.upload import StudyTracking
from hdvae_platform.search.search import Search
from hdvae_platform.search.trials import known_trials
from hdvae_platform.store.attempts import Attempt
from hdvae_platform.store.journal import Journal
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage
from hdvae_platform.study.file import load_study
from hdvae_platform.study.study import Study
from hdvae_platform.tracking import environment
from hdvae_platform.tracking.client import Client
from hdvae_platform.tracking.names import STATUS_OF, Status, Tag
from hdvae_platform.tracking.study_run import search_runs, study_identity
from hdvae_platform.tracking.tracker import Tracker
from hdvae_platform.training.messages import Ended, EndKind, Reported
from hdvae_platform.training.tune_trainable import result_of

Backend = Literal["sqlite", "postgresql"]
Database = Callable[[str], str]
STEPS, EVERY = 200, 100
CONCURRENT = 4
SECONDS = 60.0
"""That a report takes, on the clock of the simulation."""
FEW, WINDOW = 150, 100
"""Trials of the study for comparison, and how many of its last ones are measured: those about the hundredth."""
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
        "training.temperature": {"choices": [0.1, 0.5, [[0, 0.8], [200, 0.1]]]},
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
        fresh: of the first trials of another study, each measured beside one of the last trials of this one.
        memory: bytes that this process held after so many trials.
        violations: what is not as it should be.
    """

    costs: list[Cost] = field(default_factory=list)
    fresh: list[Cost] = field(default_factory=list)
    memory: dict[int, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Overhead of the last trials over that of trials about the hundredth, which were measured at the same time."""
        return median(self.costs[-WINDOW:], "whole") / median(self.fresh[-WINDOW:], "whole")


def median(costs: list[Cost], part: str) -> float:
    """Milliseconds of a part."""
    return 1000 * float(statistics.median(getattr(cost, part) for cost in costs))


def row(title: str, costs: list[Cost]) -> None:
    """Print a line of the table."""
    print(f"| {title} | {' | '.join(f'{median(costs, part):.1f}' for part in (*PARTS, 'whole'))} |", flush=True)


class Simulation:
    """Runs that train nothing, driven as Tune drives real ones.

    Args:
        study: what to run.
        places: where.
    """

    def __init__(self, study: Study, places: Places) -> None:
        self.study, self.places, self.now = study, places, 0.0
        self.records, self.storage = Records(places.database), Storage(places.storage)
        self.records.define(study.name, study.definition(), study.plan(), {})
        self.records.take(study.name, "benchmark")
        self.tracker = Tracker(places, print)
        self.tracking = StudyTracking(study, self.tracker, self.records, self.storage, {Tag.DATA_CHECKSUM: ""})
        self.search = Search(study, places.database, self.records)
        self.driver = Driver(
            study, places, self.search, self.tracking, Event(), echo=lambda line: None, clock=lambda: self.now
        )
        self.searcher, self.stopper = StudySearcher(self.driver), StudyStopper(self.driver)
        self.callback = StudyCallback(self.driver)
        self.live: deque[tuple[SimpleNamespace, dict[str, Any], Cost]] = deque()

    def trials(self) -> Iterator[Cost]:
        """What each trial cost, as they end."""
        while self._fill():
            trial, spec, cost = self.live.popleft()
            if self._advance(trial, spec, cost):
                yield cost
            else:
                self.live.append((trial, spec, cost))
            self.driver.raise_fault()

    def end(self) -> None:
        """As a driver ends."""
        self.driver.end_study()
        self.tracker.close(60)
        self.records.release(self.study.name, "benchmark")

    def _fill(self) -> bool:
        """Start runs while there is room; whether any run is live."""
        while len(self.live) < CONCURRENT:
            trial, cost = SimpleNamespace(trial_id=uuid.uuid4().hex[:8], step=0, last_result=None), Cost()
            with timed(cost, "suggest"):
                spec = self.searcher.suggest(trial.trial_id)
            if not isinstance(spec, dict):
                break
            self._drain(cost)
            self.live.append((trial, spec, cost))
        return bool(self.live)

    def _advance(self, trial: SimpleNamespace, spec: dict[str, Any], cost: Cost) -> bool:
        """One report of a run, or its end; whether it ended."""
        step = trial.step + EVERY
        self.now += SECONDS
        if step <= STEPS:
            self._train(trial, spec, step)
        else:
            trial.last_result = result_of(Ended(EndKind.COMPLETED))
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
        Journal(self.storage, spec["folder"], clock=lambda: self.now).append(step, metrics, {}, attempt)
        trial.step, trial.last_result = step, result_of(Reported(step, metrics))

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
    images = np.random.RandomState(0).randint(2, size=(16, 6, 5)).astype(np.uint8)
    np.savez(folder / "images.npz", train=images, valid=images, test=images)
    search = {"method": method, "trials": trials, **({"pruner": {pruner: {"grace": EVERY}}} if pruner else {})}
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump({**STUDY, "search": search}, sort_keys=False))
    return load_study(file)


def resident() -> int:
    """Bytes of memory that this process holds; Linux says it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def simulate(folder: Path, database: Database, method: str, trials: int, pruner: str | None) -> Outcome:
    """Run a study of many trials, and beside its last ones the first ones of another.

    Args:
        folder: an empty one.
        database: makes an empty database of a name, and tells its URL.
        method: of the search.
        trials: more than `FEW`.
        pruner: of the search.
    """
    outcome = Outcome()
    many = simulation(folder / "many", database, method, trials, pruner)
    for ended, cost in enumerate(islice(many.trials(), trials - FEW), 1):
        outcome.costs.append(cost)
        if ended == FEW or ended % (trials // 10) == 0:
            row(f"{ended:,}", outcome.costs[-WINDOW:])
            outcome.memory[ended] = resident()
    outcome.memory[trials - FEW] = resident()
    few = simulation(folder / "few", database, method, FEW, pruner)
    for cost, fresh in zip(many.trials(), few.trials(), strict=True):
        outcome.costs.append(cost)
        outcome.fresh.append(fresh)
    row(f"{trials:,}", outcome.costs[-WINDOW:])
    row(f"{FEW}, of another study, at the same time", outcome.fresh[-WINDOW:])
    for each, count in ((many, trials), (few, FEW)):
        each.end()
        outcome.violations += violations(each, count)
    return outcome


def simulation(folder: Path, database: Database, method: str, trials: int, pruner: str | None) -> Simulation:
    """A study on empty databases."""
    folder.mkdir(parents=True)
    addresses = [database(f"{kind}-{folder.name}") for kind in ("study", "mlflow")]
    places = Places(folder, addresses[0], addresses[1], (folder / "artifacts").as_uri(), str(folder / "studies"))
    return Simulation(write_study(folder, method, trials, pruner), places)


def violations(done: Simulation, trials: int) -> list[str]:
    """What is not as a study of so many trials should leave it."""
    found, study, places = [], done.study, done.places
    start = time.perf_counter()
    again = Search(study, places.database, done.records)
    print(f"{trials:,} trials are taken up again in {time.perf_counter() - start:.1f} s")
    runs = {run.trial: run for run in done.records.runs(study.name)}
    print(f"{trials:,} trials: {dict(Counter(run.state for run in runs.values()))}")
    told = {trial.number: trial for trial in known_trials(study, places.database)}
    if sorted(runs) != list(range(trials)) or sorted(told) != list(range(trials)):
        return [f"{len(runs)} runs and {len(told)} trials instead of {trials}"]
    if again.has_work():
        found.append("there is work left")
    for number, run in runs.items():
        if run.state not in ("COMPLETE", "PRUNED") or run.state != told[number].state or not run.tracked:
            found.append(
                f"trial {number}: the run is {run.state}, the trial {told[number].state}, tracked {run.tracked}"
            )
    tracked: Counter[tuple[int, str | None, str]] = Counter(
        (run.trial, run.run_id, run.status) for run in search_runs(Client(places), study.name)
    )
    expected = Counter((number, run.run_id, str(STATUS_OF[run.state])) for number, run in runs.items())
    parents = [run.status for run in Client(places).find(study_identity(study.name))]
    if parents != [Status.FINISHED]:
        found.append(f"MLflow has the study as {parents}")
    found += [f"MLflow lacks {lacking}" for lacking in expected - tracked]
    found += [f"MLflow has {extra}" for extra in tracked - expected]
    return found


def simulate_on(backend: Backend, method: str, trials: int, pruner: str | None) -> Outcome:
    """The same on new databases of a kind, in a folder of its own, printed as it goes on."""
    which = f"{backend}, {method} search{f' with {pruner}' if pruner else ''}"
    print(f"\n{which}: milliseconds of a trial, medians of {WINDOW} up to the one named")
    print("| trial | " + " | ".join(PARTS) + " | whole |\n|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="hdvae-trials-") as folder:
        if backend == "sqlite":
            return simulate(Path(folder), lambda name: f"sqlite:///{folder}/{name}.db", method, trials, pruner)
        with running() as server:
            return simulate(Path(folder), server.database, method, trials, pruner)


def apart(backend: Backend, method: str, trials: int, pruner: str | None) -> Outcome:
    """The same in a process of its own, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        outcome = pool.submit(simulate_on, backend, method, trials, pruner).result()
    memory = ", ".join(f"{held / 2**20:.0f} MiB after {ended:,}" for ended, held in outcome.memory.items())
    print(f"overhead at {trials:,} over that at {FEW}: {outcome.growth:.2f}; memory: {memory}")
    print(f"not as it should be: {'; '.join(outcome.violations[:5]) or 'nothing'}", flush=True)
    return outcome


def bars(backend: Backend, trials: int, outcome: Outcome) -> dict[str, Bar]:
    """What a study on a kind of database is held to, each at most its limit."""
    first, last = outcome.memory[trials // 10], outcome.memory[trials - FEW]
    return {
        f"overhead_{trials}_over_100_{backend}": {"value": round(outcome.growth, 3), "limit": RATIO},
        f"memory_{trials}_over_{trials // 10}_{backend}": {"value": round(last / first, 3), "limit": GROWTH},
        f"violations_{backend}": {"value": len(outcome.violations), "limit": 0},
    }


def main() -> None:
    """Simulate the studies, print what their trials cost, and the bars."""
    environment.configure()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trials", description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000, help="of random search, 300 or more")
    parser.add_argument("--tpe", type=int, default=1000, help="trials with TPE, 0 for none")
    parser.add_argument("--backend", choices=["sqlite", "postgresql"], help="only this one")
    parser.add_argument("--pruner", choices=["asha", "median", "none"], default="asha")
    options = parser.parse_args()
    if min(options.trials, options.tpe or options.trials) < 2 * FEW:
        parser.error(f"less than {2 * FEW} trials say nothing about many")
    pruner = None if options.pruner == "none" else options.pruner
    backends: tuple[Backend, ...] = (options.backend,) if options.backend else ("sqlite", "postgresql")
    found: dict[str, Bar] = {}
    for backend in backends:
        found |= bars(backend, options.trials, apart(backend, "random", options.trials, pruner))
    if options.tpe:
        apart("sqlite", "tpe", options.tpe, None)
        print("TPE has no bar: to suggest, Optuna looks at all earlier trials, so its cost grows with them")
    report("trials", found)


if __name__ == "__main__":
    main()
