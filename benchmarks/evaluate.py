"""How near to the machine's limit is an evaluation? `python -m benchmarks.evaluate`.

The importance-weighted bound of some images is computed with S samples each, as `hdvae evaluate` does it, in turns with
the top-down passes alone: samples and log-weights by the same network on the same chunks, from noise that is there. The
peak of the memory is compared for two numbers of samples, and the values are compared for two sizes of the chunks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from benchmarks.common import report
from benchmarks.stepping import IMAGE, experiment
from hdvae.evaluation.importance import log_mean_weights
from hdvae.evaluation.memory import rows_at_once
from hdvae.network.model import HDVAE, evaluating
from hdvae.network.samplers import independent
from hdvae.objectives.objectives import log_weight
from hdvae.randomness.noise import NoiseSource
from hdvae.training.costs import MB, REFERENCES, resident_peak
from hdvae.training.process import prepare_process

NETWORKS: dict[str, dict[str, Any]] = {
    "dense": {"preset": "dense"},
    "conv": {"preset": "table2-L2", "model": {"width": 8, "depth": 1}},
}
"""The network of the first study, and a small one of the kind of table 2 with two layers."""
PROCESSES = 3
"""Processes whose peaks of the memory are measured, of which the least counts: it depends on luck with addresses."""
IMAGES = 64
SEED = 0


def network(name: str) -> HDVAE:
    """A network with random weights."""
    return HDVAE(experiment({"batch": IMAGES, **NETWORKS[name]}).model, IMAGE)


def images() -> Tensor:
    """Random images, floating point."""
    torch.manual_seed(SEED)
    return torch.bernoulli(torch.full((IMAGES, *IMAGE), 0.2))


def evaluation(model: HDVAE, samples: int, rows: int) -> Tensor:
    """L_S of the images, (IMAGES,), nats."""
    x = images()
    with evaluating(model), parametrize.cached():
        return log_mean_weights(model, x, model.encode(x), [samples], SEED, 0, rows)[0]


def passes(model: HDVAE, samples: int, rows: int) -> Callable[[], None]:
    """A function that does the top-down passes of `evaluation` alone, on noise that is there."""
    x, copies = images(), max(1, rows // IMAGES)
    source = NoiseSource.at(x.device, x.dtype, copies * IMAGES, seed=SEED, purpose="importance", step=0)
    tiled, noise = x.repeat(copies, 1, 1), model.hard_noise(source)

    def act() -> None:
        with evaluating(model), parametrize.cached():
            encoded = [h.repeat(copies, *[1] * (h.dim() - 1)) for h in model.encode(x)]
            for _ in range(samples // copies):
                log_weight(model.terms(tiled, encoded, noise, independent))

    return act


def seconds(act: Callable[[], object]) -> float:
    """The time of a call."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def compared(name: str, samples: int, rounds: int) -> tuple[float, float, float]:
    """Seconds of an evaluation and of its passes alone, medians; and how far the values depend on the chunk, nats."""
    model = network(name)
    rows = rows_at_once(model)
    alone = passes(model, samples, rows)
    alone()
    pairs = [(seconds(lambda: evaluation(model, samples, rows)), seconds(alone)) for _ in range(rounds)]
    difference = (evaluation(model, 20, rows) - evaluation(model, 20, IMAGES)).abs().max().item()
    whole, only = (statistics.median(column) for column in zip(*pairs, strict=True))
    return whole, only, difference


def peak(name: str, samples: int) -> float:
    """The memory that an evaluation needs beside what was there before, in processes of its own, MB."""
    command = [sys.executable, "-m", "benchmarks.evaluate", "--peak", name, "--samples", str(samples)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(PROCESSES)]
    return min(float(run.stdout) for run in runs)


def measured_peak(name: str, samples: int) -> float:
    """The same in this process."""
    model = network(name)
    evaluation(model, 1, IMAGES)
    REFERENCES.write_text("5")
    before = resident_peak()
    evaluation(model, samples, rows_at_once(model))
    return (resident_peak() - before) / MB


def main() -> None:
    """Time everything, and print a table and the bars."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=__doc__)
    parser.add_argument("--samples", type=int, default=160, help="S; the memory is compared with ten times as many")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    prepare_process()
    if options.peak:
        print(json.dumps(measured_peak(options.peak, options.samples)))
        return
    bars: dict[str, Any] = {}
    print("| network | µs for an image and sample | passes alone | ÷ | MB | MB, ten times S | chunks differ, nats |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in NETWORKS:
        whole, only, difference = compared(name, options.samples, options.rounds)
        few, many = peak(name, options.samples), peak(name, 10 * options.samples)
        each = [1e6 * value / (options.samples * IMAGES) for value in (whole, only)]
        cells = [f"{each[0]:.1f}", f"{each[1]:.1f}", f"{whole / only:.3f}", f"{few:.0f}", f"{many:.0f}"]
        print(f"| {name} | {' | '.join(cells)} | {difference:.1e} |", flush=True)
        bars[f"{name}_over_passes"] = {"value": whole / only, "limit": 1.1}
        bars[f"{name}_memory_in_samples"] = {"value": many / few, "limit": 1.1}
        bars[f"{name}_chunks_differ"] = {"value": difference, "limit": 1e-3}
    report("evaluate", bars)


if __name__ == "__main__":
    main()
