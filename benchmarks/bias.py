"""How much common random numbers save when the relaxation bias is measured: `python -m benchmarks.bias`.

Trains a 2-layer model, then draws surrogate and hard samples of the same images, on the same noise and on noises of
their own. What is compared is the variance of one draw of their difference, within images, averaged over images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
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
from hdvae.training.loop import train
from hdvae.training.snapshot import Snapshot
from hdvae.workers import ALONE

TAUS = (0.1, 0.5)
BAR = 10.0
"""`crn_variance_ratio` at τ = 0.1 has to be at least this."""


class Silent:
    """A session that keeps nothing."""

    workers = ALONE

    def latest(self) -> Snapshot | None:
        """Training starts anew."""
        return None

    def stops(self) -> bool:
        """Nothing ends it."""
        return False

    def save(self, step: int, snapshot: Snapshot) -> None:
        """Nothing is kept."""

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        per_image: Mapping[str, Tensor],
        snapshot: Callable[[], Snapshot],
    ) -> None:
        """Say how far training is."""
        print(f"step {step}: valid/elbo {metrics['valid/elbo']:.1f}", flush=True)


def experiment(steps: int) -> Experiment:
    """Two layers of the paper's sizes, in the network that two cores train in minutes."""
    layers = [{"variables": 16, "classes": 256}, {"variables": 8, "classes": 64}]
    plain = {
        "data": {"name": "mnist5k"},
        "model": {"blocks": "dense", "width": 192, "depth": 1, "dropout": 0.1, "layers": layers},
        "training": {"steps": steps, "temperature": [[0, 0.5], [steps, 0.1]], "learning_rate": 4e-3},
        "evaluation": {"every": max(1, steps // 3), "images": 200, "draws": 1, "samples": 1},
    }
    return parse(Experiment, plain, "benchmarks.bias")


def variances(model: HDVAE, images: Tensor, draws: int) -> dict[float, tuple[float, float]]:
    """For each temperature the variance of one draw with common and with independent noise, nats²."""
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
    """Train, measure, print a table and the bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path("runs"), help="where `hdvae data fetch mnist5k` put the data")
    parser.add_argument("--steps", type=int, default=1200, help="of training")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--draws", type=int, default=30, help="for each image")
    options = parser.parse_args()
    settings = experiment(options.steps)
    dataset = load(options.home, "mnist5k", None, "none")
    model = train(settings, dataset, 0, Silent(), torch.device("cpu")).model
    chosen = choose_images(options.images, dataset.size("valid"))
    found = variances(model, torch.from_numpy(dataset.images("valid")[chosen]), options.draws)
    print("\n| τ | common noise, nats² | independent noises, nats² | ratio |\n|---:|---:|---:|---:|")
    for tau, (common, independent) in found.items():
        print(f"| {tau:g} | {common:.2f} | {independent:.2f} | {independent / common:.1f} |")
    ratios = {tau: independent / common for tau, (common, independent) in found.items()}
    report("bias", {"crn_variance_ratio": {"value": ratios[0.1], "limit": BAR, "at_tau_0.5": ratios[0.5]}})


if __name__ == "__main__":
    main()
