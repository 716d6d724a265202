"""Do sampled top-m reads train as well as dense reads? `python -m benchmarks.reads`, after `hdvae data fetch mnist5k`.

The same model with K = 256 in both layers is trained with dense reads and with sampled top-m reads (tolerance 1%), for
each seed. The benchmark reports the difference of the ELBOs on all validation images with a 95% interval (Student's t).
The ELBOs are those of averaged weights, which depend less on the last steps. Results are appended to a file
(`--pairs`), from which the same command continues after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

from benchmarks.common import report
from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.data.loading import load
from hdvae.experiment.experiment import Experiment
from hdvae.training.in_memory import InMemory
from hdvae.training.loop import train
from hdvae.training.process import prepare_process

LIMIT = 0.5
"""Largest allowed difference of the ELBOs, nats."""


def experiment(reads: str) -> Experiment:
    """The model, trained from τ = 0.8, where a read also estimates the weight of the remaining classes, to τ = 0.3."""
    layers = [{"variables": n, "classes": 256} for n in (16, 8)]
    network = {"blocks": "dense", "width": 128, "depth": 1, "dropout": 0.1, "reads": reads, "layers": layers}
    training: dict[str, Any] = {"steps": 1000, "temperature": [[0, 0.8], [1000, 0.3]], "learning_rate": 4e-3}
    training["ema"] = 0.99
    evaluation = {"every": 1000, "images": 500, "draws": 20, "samples": 20}
    plain = {"data": {"name": "mnist5k"}, "model": network, "training": training, "evaluation": evaluation}
    return parse(Experiment, plain, "benchmark")


def elbo(reads: str, dataset: Dataset, seed: int) -> float:
    """Train one model, and return its ELBO on the validation images, nats."""
    session = InMemory()
    state = train(experiment(reads), dataset, seed, session, torch.device("cpu"))
    return session.reports[state.step]["valid/elbo"]


def stored(file: Path) -> dict[int, dict[str, float]]:
    """The ELBOs of both kinds of reads, by seed."""
    return {pair["seed"]: pair for pair in map(json.loads, file.read_text().splitlines())}


def main() -> None:
    """Train the pairs that are missing, and print the mean difference with its interval."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reads", description=__doc__)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--home", type=Path, default=Path("runs"))
    parser.add_argument("--pairs", type=Path, help="file of the results; by default HOME/reads.jsonl")
    chosen = parser.parse_args()
    chosen.pairs = chosen.pairs or chosen.home / "reads.jsonl"
    torch.set_num_threads(1)
    prepare_process()
    dataset, seeds = load(chosen.home, "mnist5k", None, "none"), range(chosen.first, chosen.first + chosen.seeds)
    chosen.pairs.touch()
    for seed in seeds:
        if seed in stored(chosen.pairs):
            continue
        start = time.perf_counter()
        pair = {"seed": seed, **{reads: elbo(reads, dataset, seed) for reads in ("dense", "race")}}
        with chosen.pairs.open("a") as file:
            file.write(json.dumps(pair) + "\n")
        print(f"{pair}, {time.perf_counter() - start:.0f} s", flush=True)
    pairs = stored(chosen.pairs)
    differences = [pairs[seed]["race"] - pairs[seed]["dense"] for seed in seeds]
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))
    half = float(t.ppf(0.975, len(differences) - 1)) * error
    print(f"sampled top-m minus dense: {mean:+.2f} nats, 95% interval [{mean - half:+.2f}, {mean + half:+.2f}]")
    report("reads", {"furthest_difference": {"value": max(abs(mean - half), abs(mean + half)), "limit": LIMIT}})


if __name__ == "__main__":
    main()
