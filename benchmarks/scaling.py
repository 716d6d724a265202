"""Do two workers train as fast as two processes that know nothing of each other? `python -m benchmarks.scaling`.

Two processes with one thread each take steps in turns: as the workers of one run, which average their gradients, and
each for itself on batches of the same size. The ratio is 1 if nothing is lost to what workers tell each other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

from benchmarks.common import report
from benchmarks.stepping import IMAGE, experiment
from hdvae.training.process import prepare_process
from hdvae.training.state import TrainState
from hdvae.training.step import train_step
from hdvae.workers import ALONE, Workers

WORKERS = 2
NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {"preset": "dense"},
    "conv": {"preset": "table2-L2", "model": {"width": 32, "depth": 1}},
}
"""The network of the first study, and a smaller one of the kind of table 2 with two layers."""
STEPS = {"dense": 20, "conv": 3}
"""Steps of a turn."""
LEAST = 0.9


def turn(state: TrainState, batch: torch.Tensor, workers: Workers, steps: int) -> float:
    """Seconds in which all processes have taken some steps, measured from a common start."""
    dist.barrier()
    start = time.perf_counter()
    for _ in range(steps):
        train_step(state, batch, workers)
    dist.barrier()
    return time.perf_counter() - start


def work(rank: int, folder: str, batch_size: int, rounds: int) -> None:
    """One process; the first writes the seconds of all turns, together and alone, by network."""
    torch.set_num_threads(1)
    prepare_process()
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    found: dict[str, list[tuple[float, float]]] = {}
    for name, settings in NETWORKS.items():
        batch = torch.bernoulli(torch.full((batch_size, *IMAGE), 0.2))
        made = experiment({"batch": WORKERS * batch_size, **settings})
        together, alone = (TrainState.fresh(made, IMAGE, seed=0, device=torch.device("cpu")) for _ in range(2))
        for state, workers in ((together, Workers.here()), (alone, ALONE)):
            turn(state, batch, workers, 1)
        found[name] = [
            (turn(together, batch, Workers.here(), STEPS[name]), turn(alone, batch, ALONE, STEPS[name]))
            for _ in range(rounds)
        ]
    if rank == 0:
        torch.save(found, Path(folder) / "found")
    dist.destroy_process_group()


def main() -> None:
    """Time everything, and print a table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--batch", type=int, default=128, help="images of a step of each process")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(work, (folder, options.batch, options.rounds), nprocs=WORKERS)  # type: ignore[attr-defined,no-untyped-call]
        found = torch.load(Path(folder) / "found", weights_only=True)
    torch.set_num_threads(1)
    print("milliseconds of a step, medians\n")
    print("| network | two workers | two independent processes | workers ÷ independent, images per second |")
    print("|---|---:|---:|---:|")
    bars = {}
    for name, turns in found.items():
        together, alone = (statistics.median(column) / STEPS[name] for column in zip(*turns, strict=True))
        print(f"| {name} | {1e3 * together:.1f} | {1e3 * alone:.1f} | {alone / together:.3f} |")
        bars[f"{name}_workers_over_processes"] = {"value": alone / together, "limit": LEAST}
    report("scaling", bars)


if __name__ == "__main__":
    main()
