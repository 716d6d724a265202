"""Whether races train as well as dense reads do: `python -m benchmarks.reads`, after `hdvae data fetch mnist5k`.

The same model with K = 256 in both layers is trained with dense reads and with races (tolerance 1%), seed by seed.
What is reported is the difference of the ELBOs on all validation images, with the 95% interval of Student's t. Both are
evaluated at averaged weights, since where the last steps happen to end says nothing of the reads. Pairs are kept as
they come (`--pairs`): the same command goes on where it was cut off.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t
from torch import Tensor

from benchmarks.common import report
from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.data.loading import load
from hdvae.experiment.experiment import Experiment
from hdvae.training.loop import train
from hdvae.training.snapshot import Snapshot
from hdvae.workers import ALONE

LIMIT = 0.5
"""Nats by which the ELBOs may differ."""


def experiment(reads: str) -> Experiment:
    """The model, trained from τ = 0.8, where a race needs its tail, to 0.3."""
    layers = [{"variables": n, "classes": 256} for n in (16, 8)]
    network = {"blocks": "dense", "width": 128, "depth": 1, "dropout": 0.1, "reads": reads, "layers": layers}
    training: dict[str, Any] = {"steps": 1000, "temperature": [[0, 0.8], [1000, 0.3]], "learning_rate": 4e-3}
    training["ema"] = 0.99
    evaluation = {"every": 1000, "images": 500, "draws": 20, "samples": 20}
    plain = {"data": {"name": "mnist5k"}, "model": network, "training": training, "evaluation": evaluation}
    return parse(Experiment, plain, "benchmark")


class Last:
    """A session that keeps the last report."""

    workers = ALONE
    metrics: Mapping[str, float]

    def latest(self) -> Snapshot | None:
        """Every run is a new one."""
        return None

    def report(
        self, step: int, metrics: Mapping[str, float], per_image: Mapping[str, Tensor], snapshot: Callable[[], Snapshot]
    ) -> None:
        """Keep it."""
        self.metrics = metrics

    def stops(self) -> bool:
        """Nobody asks for an end."""
        return False

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Nothing is kept of what was interrupted."""


def elbo(reads: str, dataset: Dataset, seed: int) -> float:
    """Train once; the ELBO on the validation images."""
    session = Last()
    train(experiment(reads), dataset, seed, session, torch.device("cpu"))
    return session.metrics["valid/elbo"]


def kept(file: Path) -> dict[int, dict[str, float]]:
    """The ELBOs of both reads, by seed."""
    return {pair["seed"]: pair for pair in map(json.loads, file.read_text().splitlines())}


def main() -> None:
    """Train the pairs that are not there yet; print their differences, and how far from 0 their interval goes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--pairs", type=Path, help="where ELBOs are kept; by default in HOME/reads.jsonl")
    chosen = parser.parse_args()
    chosen.pairs = chosen.pairs or chosen.home / "reads.jsonl"
    torch.set_num_threads(1)
    dataset, seeds = load(chosen.home, "mnist5k", None, "none"), range(chosen.first, chosen.first + chosen.seeds)
    chosen.pairs.touch()
    for seed in seeds:
        if seed in kept(chosen.pairs):
            continue
        start = time.perf_counter()
        pair = {"seed": seed, **{reads: elbo(reads, dataset, seed) for reads in ("dense", "race")}}
        with chosen.pairs.open("a") as file:
            file.write(json.dumps(pair) + "\n")
        print(f"{pair}, {time.perf_counter() - start:.0f} s", flush=True)
    pairs = kept(chosen.pairs)
    differences = [pairs[seed]["race"] - pairs[seed]["dense"] for seed in seeds]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(t.ppf(0.975, len(differences) - 1)) * error
    print(f"race minus dense: {mean:+.2f} nats, 95% interval [{mean - half:+.2f}, {mean + half:+.2f}]")
    report("reads", {"furthest_difference": {"value": max(abs(mean - half), abs(mean + half)), "limit": LIMIT}})


if __name__ == "__main__":
    main()
