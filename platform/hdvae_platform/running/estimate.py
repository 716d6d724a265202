"""The expected cost of a study, from the time of a few steps on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.training.loop import check_batch
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import Workers
from hdvae_platform.analysis.labels import label
from hdvae_platform.store.images import load_data
from hdvae_platform.store.places import Places
from hdvae_platform.study.checks import check_images
from hdvae_platform.study.resources import this_machine
from hdvae_platform.study.study import Study

TIMED_STEPS = 3
"""Steps that are timed, after one that is not."""
TIMED_TRIALS = 4
"""Trials that are timed; the others are assumed to cost as much on average."""


@dataclass(frozen=True)
class Estimate:
    """The cost of a study.

    Attributes:
        trials: the number of trials.
        runs: trials × seeds, and the confirmations.
        arms: for some trials: settings, number of parameters, seconds per step.
        seconds: training time of the whole study, with its number of concurrent runs.
    """

    trials: int
    runs: int
    arms: list[tuple[dict[str, Any], int, float]]
    seconds: float

    def rows(self) -> list[list[str]]:
        """The timed trials, for a table."""
        return [[label(params), f"{count:,}", f"{seconds:.3f}"] for params, count, seconds in self.arms]

    def plain(self) -> dict[str, Any]:
        """The estimate as JSON-like values."""
        arms = [{"params": p, "parameters": n, "seconds_per_step": s} for p, n, s in self.arms]
        return {"trials": self.trials, "runs": self.runs, "seconds": self.seconds, "arms": arms}


def estimate(study: Study, places: Places, done: float = 0) -> Estimate:
    """Time a few steps of some trials, with the threads of one worker.

    Args:
        study: the study.
        places: where everything lives.
        done: the steps that each run has behind it when it starts, as the mean over the runs.

    Raises:
        InputError: the data set is missing.
    """
    dataset = load_data(study.experiment, places.home)
    check_batch(study.experiment, dataset, Workers(0, study.resources.min_workers))
    check_images(study, dataset.size("valid"))
    sets = study.grid()[:TIMED_TRIALS] if study.search.method.name == "grid" else [{}]
    threads = torch.get_num_threads()
    torch.set_num_threads(study.resources.cpus_per_worker)
    shape = (dataset.height, dataset.width)
    arms = [(params, *_time_steps(study.experiment_at(params), shape, study.resources.min_workers)) for params in sets]
    torch.set_num_threads(threads)
    trials = study.parameter_sets() or 0
    runs = trials * len(study.seeds) + study.confirmations(trials)
    per_step = float(np.mean([seconds for _, _, seconds in arms]))
    rounds = -(-runs // _at_a_time(study))
    return Estimate(trials, runs, arms, rounds * (study.experiment.training.steps - done) * per_step)


def _at_a_time(study: Study) -> int:
    """How many runs this machine has room for at a time; as many as were asked for if it has none for a single one."""
    try:
        return study.resources.concurrent_runs([this_machine()])
    except InputError:
        return study.resources.concurrent


def _time_steps(experiment: Experiment, image: tuple[int, int], workers: int) -> tuple[int, float]:
    """The number of parameters, and the median seconds of a step on one worker's share of the batch."""
    device = torch.device("cpu")
    state = TrainState.fresh(experiment, image, seed=0, device=device)
    batch = torch.zeros(experiment.training.batch_size // workers, *image)
    times = []
    for _ in range(TIMED_STEPS + 1):
        start = time.perf_counter()
        train_step(state, batch)
        times.append(time.perf_counter() - start)
    count = sum(parameter.numel() for parameter in state.model.parameters())
    return count, float(np.median(times[1:]))
