"""Whether two workers train what one trains, on two nodes of a real Ray cluster: `python -m benchmarks.workers`.

The same experiment (no dropout, the same batches, the same noise for each image) by one worker and by two, through Ray
Train as the platform uses it, in float64 and in float32. What is left is rounding: sums are taken in another order.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray reads it when it is imported

import numpy as np
import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.util.queue import Queue

import benchmarks
from benchmarks.common import Bar, report
from benchmarks.nodes import cluster
from hdvae.config import parse
from hdvae.data.dataset import Dataset
from hdvae.experiment.experiment import Experiment
from hdvae.training.loop import Report, train
from hdvae.training.snapshot import Snapshot
from hdvae.workers import Workers
from hdvae_platform.cluster import environment
from hdvae_platform.cluster.connection import packages
from hdvae_platform.training.worker_group import LeanTorchTrainer, RayAddressTorchConfig

STEPS, BATCH = 50, 64
ALLOWED = {"float64": 1e-9, "float32": 1e-3}
"""Relative differences. That of float32 is no promise: it is reported."""
EXPERIMENT = {
    "data": {"path": "none.npz"},
    "model": {
        "blocks": "dense",
        "width": 32,
        "depth": 1,
        "dropout": 0.0,
        "layers": [{"variables": 4, "classes": 16}, {"variables": 2, "classes": 16}],
    },
    "training": {"steps": STEPS, "batch_size": BATCH, "temperature": [[0, 0.9], [STEPS, 0.3]], "freebits": 0.1},
    "evaluation": {"every": 10, "images": 64, "draws": 2, "samples": 10, "tau": [0.1]},
}
Found = tuple[dict[str, float], dict[str, Any]]
"""All metrics by `step name`, and the final tensors as arrays, by name."""


class Kept:
    """A session that keeps the metrics of its reports."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.metrics: dict[str, float] = {}

    def latest(self) -> None:
        """There is nothing to go on with."""

    def report(self, report: Report, snapshot: Callable[[], Snapshot]) -> None:
        """Keep the metrics."""
        self.metrics |= {f"{report.step} {name}": value for name, value in report.metrics.items()}

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Nobody asks for it."""

    def stops(self) -> bool:
        """Never."""
        return False


def images() -> Dataset:
    """Small random images."""
    noise = np.random.RandomState(0)
    counts = {"train": 256, "valid": 64, "test": 16}
    splits = {split: (noise.rand(count, 8, 8) < 0.3).astype(np.uint8) for split, count in counts.items()}
    return Dataset.from_images("random", splits)


def work(config: dict[str, Any]) -> None:
    """One worker's part; the first of them sends what it found."""
    torch.set_default_dtype(getattr(torch, config["dtype"]))
    torch.set_num_threads(1)
    session = Kept(Workers.here())
    experiment = parse(Experiment, EXPERIMENT, "experiment")
    state = train(experiment, images(), 0, session, torch.device("cpu"))
    if session.workers.is_first:
        tensors = {name: tensor.numpy() for name, tensor in state.snapshot().tensors.items()}
        config["queue"].put((session.metrics, tensors))


def trained(workers: int, dtype: str, folder: Path) -> Found:
    """What so many workers find in a precision."""
    queue = Queue(actor_options={"num_cpus": 0})
    LeanTorchTrainer(
        work,
        train_loop_config={"dtype": dtype, "queue": queue},
        torch_config=RayAddressTorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name=f"{dtype}-{workers}", storage_path=str(folder)),
    ).fit()
    found: Found = queue.get()
    return found


def furthest(one: Found, other: Found) -> tuple[float, float]:
    """The largest relative differences: of a metric, and of a tensor to the largest number in it."""
    metrics = max(abs(value - other[0][name]) / max(abs(value), 1e-3) for name, value in one[0].items())
    tensors = max(
        float(np.abs(value - other[1][name]).max() / max(np.abs(value).max(), 1e-9)) for name, value in one[1].items()
    )
    return metrics, tensors


def main() -> None:
    """Train everything, print the differences, and the bars."""
    environment.configure_training()
    bars: dict[str, Bar] = {}
    print("| precision | metrics | tensors |\n|---|---:|---:|")
    with cluster((1, 1)) as nodes, tempfile.TemporaryDirectory(prefix="hdvae-workers-") as folder:
        os.environ.update(nodes.environment)
        along = {"py_modules": [*packages(), str(Path(benchmarks.__file__).parent)]}
        ray.init(nodes.address, runtime_env=along, log_to_driver=False, logging_level=logging.CRITICAL)
        try:
            for dtype, limit in ALLOWED.items():
                one, two = (trained(workers, dtype, Path(folder)) for workers in (1, 2))
                metrics, tensors = furthest(one, two)
                print(f"| {dtype} | {metrics:.1e} | {tensors:.1e} |", flush=True)
                bars[f"{dtype}_off"] = {"value": max(metrics, tensors), "limit": limit}
        finally:
            ray.shutdown()
    report("workers", bars)


if __name__ == "__main__":
    main()
