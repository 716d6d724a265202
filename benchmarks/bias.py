"""Variance reduction by common random numbers in measurements of the relaxation bias: `python -m benchmarks.bias`.

It trains a 2-layer model, and draws surrogate and hard samples of the same images on common and on independent noise.
It compares the variance of one draw of their difference within images, averaged over images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common import report
from hdvae.config import parse
from hdvae.data.loading import load
from hdvae.evaluation.chains import measure
from hdvae.evaluation.evaluation import choose_images
from hdvae.evaluation.metrics import tau_label
from hdvae.experiment.experiment import Experiment
from hdvae.network.model import HDVAE, evaluating
from hdvae.training.in_memory import InMemory
from hdvae.training.loop import train

TAUS = (0.1, 0.5)
BAR = 10.0
"""Smallest allowed `crn_variance_ratio` at τ = 0.1."""


def experiment(steps: int) -> Experiment:
    """Two layers of the sizes in the paper, in a network that two cores train in minutes."""
    layers = [{"variables": 16, "classes": 256}, {"variables": 8, "classes": 64}]
    plain = {
        "data": {"name": "mnist5k"},
        "model": {"blocks": "dense", "width": 192, "depth": 1, "dropout": 0.1, "layers": layers},
        "training": {"steps": steps, "temperature": [[0, 0.5], [steps, 0.1]], "learning_rate": 4e-3},
        "evaluation": {"every": max(1, steps // 3), "images": 200, "draws": 1, "samples": 1},
    }
    return parse(Experiment, plain, "benchmarks.bias")


def variances(model: HDVAE, images: Tensor, draws: int) -> dict[float, tuple[float, float]]:
    """For each temperature, the variance of one draw with common and with independent noise, nats²."""
    temperatures = {tau_label(tau): tau for tau in TAUS}
    with evaluating(model):
        each = [measure(model, images, temperatures, 1, seed) for seed in range(draws)]
    elbo = torch.stack([one.hard["elbo"] for one in each])
    out = {}
    for tau in TAUS:
        surrogate = torch.stack([one.relaxed[tau_label(tau)]["surrogate_elbo"] for one in each])
        common, independent = surrogate - elbo, surrogate - elbo.roll(1, 0)
        out[tau] = common.var(0).mean().item(), independent.var(0).mean().item()
    return out


def main() -> None:
    """Train, measure, and print a table and the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs"), help="folder of `hdvae data fetch mnist5k`")
    parser.add_argument("--steps", type=int, default=1200, help="number of training steps")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--draws", type=int, default=30, help="number of draws for each image")
    options = parser.parse_args()
    settings = experiment(options.steps)
    dataset = load(options.home, "mnist5k", None, "none")
    session = InMemory(lambda step, metrics: print(f"step {step}: valid/elbo {metrics['valid/elbo']:.1f}", flush=True))
    model = train(settings, dataset, 0, session, torch.device("cpu")).model
    chosen = choose_images(options.images, dataset.size("valid"))
    measured = variances(model, torch.from_numpy(dataset.images("valid")[chosen]), options.draws)
    print("\n| τ | common noise, nats² | independent noise, nats² | ratio |\n|---:|---:|---:|---:|")
    for tau, (common, independent) in measured.items():
        print(f"| {tau:g} | {common:.2f} | {independent:.2f} | {independent / common:.1f} |")
    ratios = {tau: independent / common for tau, (common, independent) in measured.items()}
    report("bias", {"crn_variance_ratio": {"value": ratios[0.1], "limit": BAR, "at_tau_0.5": ratios[0.5]}})


if __name__ == "__main__":
    main()
