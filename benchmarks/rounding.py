"""How far rounding carries in training: `python -m benchmarks.rounding`, after `hdvae data fetch mnist5k`.

Every seed is trained three times: as it is, with the initial weights multiplied by 1 + ε, which is about the rounding
of the precision, and with another temperature schedule, as the second arm of a study. All three have the same initial
weights, batches and noise. Without dropout the first two differ by rounding alone, as one worker and two would.

At each step the benchmark reports the difference that ε makes, beside the spread of the validation ELBO over seeds, and
the correlation over seeds of the first run with each of the others: what equal seeds still share. A few seeds are
repeated in float64.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.common import report
from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.data.loading import load
from hdvae.experiment.experiment import Experiment
from hdvae.training.in_memory import InMemory
from hdvae.training.loop import train
from hdvae.training.snapshot import Snapshot
from hdvae.training.state import TrainState

STEPS = (50, 100, 200, 400, 800)
PERTURBATIONS = {torch.float32: 1e-7, torch.float64: 1e-15}
SCHEDULES = {"slow": [[0, 0.8], [800, 0.3]], "fast": [[0, 0.5], [200, 0.1]]}
LIMIT = 1e-4
"""Largest allowed difference of the ELBOs in float64 at step `JUDGED`, nats."""
JUDGED = 200
"""Later, training amplifies the rounding of float64 too."""

Curve = list[float]
"""The validation ELBO at each of the `STEPS`, nats."""


def experiment(schedule: str) -> Experiment:
    """A two-layer model without dropout, whose masks would depend on the number of workers."""
    layers = [{"variables": n, "classes": 64} for n in (16, 8)]
    plain = {
        "data": {"name": "mnist5k"},
        "model": {"blocks": "dense", "width": 96, "depth": 1, "dropout": 0.0, "layers": layers},
        "training": {"steps": STEPS[-1], "batch_size": 64, "temperature": SCHEDULES[schedule], "learning_rate": 4e-3},
        "evaluation": {"every": STEPS[0], "images": 500, "draws": 2, "samples": 1, "tau": [0.1]},
    }
    return parse(Experiment, plain, "benchmarks.rounding")


class Perturbed(InMemory):
    """A session that starts from initial weights multiplied by 1 + ε."""

    def __init__(self, initial: Snapshot, epsilon: float) -> None:
        super().__init__()
        tensors = {
            name: tensor * (1 + epsilon) if name.startswith("model/") and tensor.is_floating_point() else tensor
            for name, tensor in initial.tensors.items()
        }
        self._initial = Snapshot(tensors, initial.values)

    def latest(self) -> Snapshot:
        """The initial state, perturbed."""
        return self._initial


def curve(dataset: Dataset, seed: int, schedule: str, epsilon: float) -> Curve:
    """Train one model in the default precision, from weights perturbed by ε."""
    settings, device = experiment(schedule), torch.device("cpu")
    initial = TrainState.fresh(settings, (dataset.height, dataset.width), seed, device).snapshot()
    session = Perturbed(initial, epsilon)
    train(settings, dataset, seed, session, device)
    return [session.reports[step]["valid/elbo"] for step in STEPS]


def curves(dtype: torch.dtype, seeds: Sequence[int], one: Callable[[int, str, float], Curve]) -> dict[str, list[Curve]]:
    """The curves of all seeds in one precision: as they are, perturbed, and with the other schedule."""
    torch.set_default_dtype(dtype)
    try:
        return {
            "base": [one(seed, "slow", 0.0) for seed in seeds],
            "perturbed": [one(seed, "slow", PERTURBATIONS[dtype]) for seed in seeds],
            "other": [one(seed, "fast", 0.0) for seed in seeds] if dtype == torch.float32 else [],
        }
    finally:
        torch.set_default_dtype(torch.float32)


def at(found: Sequence[Curve], place: int) -> list[float]:
    """The ELBOs of all seeds at one of the steps."""
    return [one[place] for one in found]


def off(found: Mapping[str, list[Curve]], place: int) -> list[float]:
    """What the perturbation changes at one of the steps, for each seed: absolute values, nats."""
    pairs = zip(at(found["base"], place), at(found["perturbed"], place), strict=True)
    return [abs(base - perturbed) for base, perturbed in pairs]


def shared(found: Mapping[str, list[Curve]], with_arm: str, place: int) -> float:
    """The correlation over seeds of the base runs with another arm at one of the steps."""
    return statistics.correlation(at(found["base"], place), at(found[with_arm], place))


def table(single: Mapping[str, list[Curve]], double: Mapping[str, list[Curve]]) -> str:
    """The measurements at each step in Markdown."""
    lines = [
        "| step | ε = 1e-7, float32: mean, largest | ε = 1e-15, float64: largest | spread over seeds "
        "| correlation: ε alone | another schedule |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for place, step in enumerate(STEPS):
        each = off(single, place)
        lines.append(
            f"| {step} | {statistics.fmean(each):.2g}, {max(each):.2g} | {max(off(double, place)):.1g} "
            f"| {statistics.stdev(at(single['base'], place)):.2f} "
            f"| {shared(single, 'perturbed', place):.3f} | {shared(single, 'other', place):.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Train everything, and print a table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs"), help="folder of `hdvae data fetch mnist5k`")
    parser.add_argument("--seeds", type=int, default=12, help="in float32 (default: %(default)s)")
    parser.add_argument("--double", type=int, default=3, help="seeds in float64 (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(options.home, "mnist5k", None, "none")

    def one(seed: int, schedule: str, epsilon: float) -> Curve:
        return curve(dataset, seed, schedule, epsilon)

    single = curves(torch.float32, range(options.seeds), one)
    double = curves(torch.float64, range(options.double), one)
    print(table(single, double))
    largest = max(off(double, STEPS.index(JUDGED)))
    report("rounding", {f"float64_off_at_{JUDGED}": {"value": largest, "limit": LIMIT}})


if __name__ == "__main__":
    main()
