"""What a trial costs besides its training: `python -m benchmarks.overhead`, after `hdvae data fetch mnist5k`.

A study of trials of one training step each is compared with the same trainings as Ray Tune's documentation runs them (a
function trainable, which reports a metric and keeps nothing), and with bare Ray actors that are used again and again.
What counts is how the time grows from few trials to many; so starting Ray is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

import yaml

from benchmarks.common import report

CORES = 2
"""Trials at the same time."""
SHARE, SECONDS = 0.1, 0.15
"""Limits: of Ray Tune's time for a trial, and beyond that of bare actors."""
EXPERIMENT: dict[str, Any] = {
    "data": {"name": "mnist5k"},
    "model": {"blocks": "dense", "width": 32, "depth": 1, "layers": [{"variables": 4, "classes": 16}]},
    "training": {"steps": 1, "batch_size": 32, "temperature": 0.5},
    "evaluation": {"every": 1, "images": 50, "draws": 1, "samples": 1, "tau": [0.1]},
}


def rates(trials: int) -> list[float]:
    """A learning rate for each trial."""
    return [1e-3 * (1 + i / trials) for i in range(trials)]


def train(rate: float, home: str) -> float:
    """The training of a trial, without anything that is kept: its ELBO."""
    import torch

    from hdvae.config import parse
    from hdvae.data.loading import load
    from hdvae.experiment.experiment import Experiment
    from hdvae.training.in_memory import InMemory
    from hdvae.training.loop import train as trained

    torch.set_num_threads(1)
    plain = {**EXPERIMENT, "training": {**EXPERIMENT["training"], "learning_rate": rate}}
    session = InMemory()
    trained(
        parse(Experiment, plain, "benchmark"),
        load(Path(home), "mnist5k", None, "none"),
        0,
        session,
        torch.device("cpu"),
    )
    return session.reports[1]["valid/elbo"]


def by_tune(trials: int, home: str) -> None:
    """As in Ray Tune's documentation: `tune.Tuner` on a function that reports."""
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        tune.report({"elbo": train(config["rate"], home)})

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            trainable,
            param_space={"rate": tune.grid_search(rates(trials))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        done = tuner.fit()
    assert len(done) == trials
    assert not done.errors
    ray.shutdown()


def by_actors(trials: int, home: str) -> None:
    """Bare actors, one for each core."""
    import ray
    from ray.util import ActorPool

    @ray.remote(num_cpus=1)
    class Trainer:
        def train(self, rate: float) -> float:
            return train(rate, home)

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    pool = ActorPool([Trainer.remote() for _ in range(CORES)])  # type: ignore[attr-defined]
    found = list(pool.map(lambda actor, rate: actor.train.remote(rate), rates(trials)))
    assert len(found) == trials
    ray.shutdown()


def by_study(trials: int, home: str) -> None:
    """A study, with all that it keeps, in a home folder of its own."""
    study = {
        "name": "overhead",
        "claim": "None.",
        "experiment": EXPERIMENT,
        "space": {"training.learning_rate": {"choices": rates(trials)}},
        "search": {"method": "grid"},
        "resources": {"concurrent": CORES},
    }
    with tempfile.TemporaryDirectory() as folder:
        file, data = Path(folder) / "overhead.yaml", Path(folder) / "home" / "data"
        file.write_text(yaml.safe_dump(study))
        data.parent.mkdir()
        data.symlink_to(Path(home).absolute() / "data")
        command = [sys.executable, "-m", "hdvae_platform.cli", "study", "run", str(file), "--home", str(data.parent)]
        subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


WAYS = {"study": by_study, "Ray Tune": by_tune, "actors": by_actors}


def seconds(way: str, trials: int, home: Path) -> float:
    """The time of some trials, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.overhead", "--way", way, "--trials", str(trials), "--home", str(home)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Time everything, and print a table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--many", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        start = time.perf_counter()
        WAYS[options.way](options.trials, str(options.home.absolute()))
        print(json.dumps(time.perf_counter() - start))
        return
    slopes: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            few, many = (seconds(way, trials, options.home) for trials in (options.few, options.many))
            slopes[way].append((many - few) / (options.many - options.few))
    each = {way: statistics.median(found) for way, found in slopes.items()}
    print(f"seconds for a trial on {CORES} cores, median of {options.rounds} rounds\n")
    print("| study | Ray Tune, function trainable | bare actors |\n|---:|---:|---:|")
    print(f"| {' | '.join(f'{value:.3f}' for value in each.values())} |")
    bars = {
        "study_over_tune": {"value": each["study"] / each["Ray Tune"], "limit": SHARE},
        "seconds_above_actors": {"value": each["study"] - each["actors"], "limit": SECONDS},
    }
    report("overhead", bars)


if __name__ == "__main__":
    main()
