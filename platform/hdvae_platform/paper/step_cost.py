"""The cost of a training step on this machine, in seconds and in memory (table 3 of the paper).

Each model is measured in a process of its own, `python -m hdvae_platform.paper.step_cost`, because the peak memory of a
process never goes down.
"""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch

from hdvae.config import parse
from hdvae.errors import InputError
from hdvae.experiment.experiment import Experiment
from hdvae.training.state import TrainState
from hdvae.training.step import train_step

IMAGE = (28, 28)
STATUS = Path("/proc/self/status")
"""Where Linux shows the memory of the process."""


@dataclass(frozen=True)
class StepCost:
    """The cost of training steps.

    Attributes:
        seconds: duration of each timed step.
        megabytes: peak memory on the GPU; without a GPU, peak memory of the process minus what it held before.
        device: name of the GPU, or `CPU`.
        threads: number of CPU threads.
    """

    seconds: list[float]
    megabytes: float
    device: str
    threads: int


def measured_alone(experiment: Experiment, steps: int) -> StepCost:
    """Time steps in a process of its own.

    Raises:
        InputError: the process failed; the machine may have too little memory.
    """
    arguments = [sys.executable, "-m", "hdvae_platform.paper.step_cost"]
    given = json.dumps({"experiment": experiment.plain(), "steps": steps})
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it was killed; the machine may have too little memory"])[-1]
        raise InputError(f"the process that times training steps ended with exit code {done.returncode}: {said}")
    return StepCost(**json.loads(done.stdout))


def measure(experiment: Experiment, steps: int, device: torch.device) -> StepCost:
    """Time steps of a fresh model on random images, after one step that is not timed."""
    before = _peak_memory(device)
    state = TrainState.fresh(experiment, IMAGE, seed=0, device=device)
    batch = torch.bernoulli(torch.full((experiment.training.batch_size, *IMAGE), 0.2)).to(device)
    train_step(state, batch)
    seconds = [_timed(lambda: train_step(state, batch), device) for _ in range(steps)]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return StepCost(seconds, (_peak_memory(device) - before) / 1e6, name, torch.get_num_threads())


def _timed(act: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_memory(device: torch.device) -> float:
    """Peak memory of the process so far, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved())
    if STATUS.exists():  # on Linux `ru_maxrss` includes the memory of the parent
        peak = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        assert peak is not None
        return 1024 * float(peak[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Measure the experiment given as JSON on standard input, and print the cost as JSON."""
    asked = json.load(sys.stdin)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cost = measure(parse(Experiment, asked["experiment"], "experiment"), asked["steps"], device)
    click.echo(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main()
