"""What a training step costs on this machine, in seconds and in memory (table 3 of the paper).

Memory is that of a process of its own, `python -m hdvae_platform.paper.step_cost`, since a process never gives its
peak back.
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


@dataclass(frozen=True)
class StepCost:
    """What steps cost.

    Attributes:
        seconds: of each timed step.
        megabytes: most memory held at a time: of the GPU; without one, by the process beyond what it held before.
        device: on which.
        threads: of the CPU.
    """

    seconds: list[float]
    megabytes: float
    device: str
    threads: int


def measured_alone(experiment: Experiment, steps: int) -> StepCost:
    """Time steps in a process of its own.

    Raises:
        InputError: it did not get to its end; the machine may have too little memory.
    """
    arguments = [sys.executable, "-m", "hdvae_platform.paper.step_cost"]
    given = json.dumps({"experiment": experiment.plain(), "steps": steps})
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it was killed; is there memory enough?"])[-1]
        raise InputError(f"the process that times steps ended with code {done.returncode}: {said}")
    return StepCost(**json.loads(done.stdout))


def measure(experiment: Experiment, steps: int, device: torch.device) -> StepCost:
    """Time steps of a fresh model on images that are noise, after one step that is not timed."""
    begun = _held(device)
    state = TrainState.fresh(experiment, IMAGE, seed=0, device=device)
    batch = torch.bernoulli(torch.full((experiment.training.batch_size, *IMAGE), 0.2)).to(device)
    train_step(state, batch)
    seconds = [_timed(lambda: train_step(state, batch), device) for _ in range(steps)]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    return StepCost(seconds, (_held(device) - begun) / 1e6, name, torch.get_num_threads())


def _timed(act: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    act()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _held(device: torch.device) -> float:
    """Peak memory so far, in bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved())
    if STATUS.exists():  # Linux counts what the parent held into `ru_maxrss`
        found = re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
        assert found is not None
        return 1024 * float(found[1])
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    """Measure what standard input asks for, and print it as JSON."""
    asked = json.load(sys.stdin)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = measure(parse(Experiment, asked["experiment"], "experiment"), asked["steps"], device)
    click.echo(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
