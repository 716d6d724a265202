"""What a study will cost, measured on a few steps here and now."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hdvae.experiment.experiment import Experiment
from hdvae.training.loop import check_batch
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import Workers
from hdvae_platform.analysis.comparison import label
from hdvae_platform.store.images import load_data
from hdvae_platform.store.places import Places
from hdvae_platform.study.study import Study

STEPS = 3
"""Steps that are timed, after one that is not."""
SETS = 4
"""Parameter sets that are timed; the others are taken to cost as much on average."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a study.

    Attributes:
        trials: parameter sets.
        runs: parameter sets × seeds, and those that confirm the best.
        arms: for some parameter sets: settings, number of parameters, seconds a step.
        seconds: of training, in all, at the study's concurrency.
    """

    trials: int
    runs: int
    arms: list[tuple[dict[str, Any], int, float]]
    seconds: float

    def rows(self) -> list[list[str]]:
        """The measured sets, for a table."""
        return [[label(params), f"{count:,}", f"{seconds:.3f}"] for params, count, seconds in self.arms]

    def plain(self) -> dict[str, Any]:
        """JSON-like values."""
        arms = [{"params": p, "parameters": n, "seconds_per_step": s} for p, n, s in self.arms]
        return {"trials": self.trials, "runs": self.runs, "seconds": self.seconds, "arms": arms}


def estimate(study: Study, places: Places) -> Estimate:
    """Time a few steps of some parameter sets with one run's threads.

    Raises:
        InputError: the data are not there.
    """
    dataset = load_data(study.experiment, places.home)
    check_batch(study.experiment, dataset, Workers(0, study.resources.fewest))
    sets = study.grid()[:SETS] if study.search.method == "grid" else [{}]
    threads = torch.get_num_threads()
    torch.set_num_threads(study.resources.cpus_per_worker)
    shape = (dataset.height, dataset.width)
    arms = [(params, *_time_steps(study.experiment_at(params), shape, study.resources.fewest)) for params in sets]
    torch.set_num_threads(threads)
    trials = study.parameter_sets() or 0
    runs = trials * len(study.seeds) + study.confirmations(trials)
    per_step = float(np.mean([seconds for _, _, seconds in arms]))
    rounds = -(-runs // study.resources.concurrent)
    return Estimate(trials, runs, arms, rounds * study.experiment.training.steps * per_step)


def _time_steps(experiment: Experiment, image: tuple[int, int], workers: int) -> tuple[int, float]:
    """Number of parameters, and the median time of a step on one worker's share, in seconds."""
    device = torch.device("cpu")
    state = TrainState.fresh(experiment, image, seed=0, device=device)
    batch = torch.zeros(experiment.training.batch_size // workers, *image)
    times = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        train_step(state, batch)
        times.append(time.perf_counter() - start)
    count = sum(parameter.numel() for parameter in state.model.parameters())
    return count, float(np.median(times[1:]))
