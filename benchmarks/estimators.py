"""Bias and variance of the gradient estimators, compared with the exact gradients of a model that can be enumerated.

    python -m benchmarks.estimators [--draws N] [--out FILE.md]

The model uses the classes of the library: two layers of factored memories, with two variables in z_1 and one in z_2,
and one image. Means are taken over groups of draws: the variance of one draw is the variance of the group means times
the group size, so no gradients of single draws are needed. All estimators with one sample share their noise, and so do
those with two samples.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import report
from hdvae.bounds.exact import enumerate_exactly
from hdvae.experiment.experiment import LayerConfig, ModelConfig
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Sampler, independent, relaxed
from hdvae.network.wiring import WIRINGS
from hdvae.objectives.hard_forward import conditional_noise, gumbel_rao, reinmax, straight_through
from hdvae.objectives.objectives import expected_log_weight, log_weight, surrogate_objective
from hdvae.objectives.score_function import log_q, rloo, vimco
from hdvae.randomness.noise import NoiseSource
from hdvae_platform.store.storage import write_atomically

TAUS = (1.0, 0.5, 0.1)
GROUPS = 100
CONDITIONAL = 16
"""R, the number of conditional draws of `gumbel_rao`."""
SAMPLES = 2
"""S, the number of samples of `rloo` and `vimco` in one draw."""
DIRECTIONS = 8
LIMIT = 4.0
"""Largest allowed bias of an unbiased estimator in standard errors, as the maximum over a few estimators."""
NO_FREEBITS = -1e9
POSTERIOR_PARTS = (".up.", ".expand_up.", ".merge.", ".posteriors.", ".keys_PNMQ")
"""Parts of the names of the encoder's parameters."""

Objective = Callable[[int], Tensor]
"""The number of a group → the mean of its draws, a differentiable scalar."""


def small_model(wiring: str, classes: int, seed: int) -> tuple[HDVAE, Tensor]:
    """A model in float64 with laws that are far from uniform, and an image (2, 3)."""
    layers = (LayerConfig(variables=2, classes=classes), LayerConfig(variables=1, classes=classes))
    sizes = {"blocks": "dense", "width": 6, "depth": 1, "dropout": 0.0, "key_size": 3, "value_size": 2}
    config = ModelConfig.model_validate({"wiring": wiring, "layers": layers, **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = HDVAE(config, (2, 3)).double().eval()
        x = torch.randint(0, 2, (2, 3)).double()
    with torch.no_grad():
        for name, part in model.named_modules():
            if isinstance(part, nn.ModuleDict) and name.endswith(("posteriors", "priors")):
                for parameter in part.parameters():
                    parameter.mul_(1.5)
        for parameter in model.logits.parameters():
            parameter.mul_(1.5)
        for values in model.memory_values():
            values.mul_(3.0)
    return model, x


def encoder(model: HDVAE) -> list[nn.Parameter]:
    """The bottom-up pass, what q is read with, and the keys."""
    return [p for name, p in model.named_parameters() if any(part in f"{name}." for part in POSTERIOR_PARTS)]


def flat_gradient(value: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of a scalar as one vector (P,)."""
    gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


@dataclass(frozen=True)
class Draws:
    """Groups of draws for one image.

    Attributes:
        model: whose noise is drawn.
        x: the image, (H, W).
        count: draws in a group.
    """

    model: HDVAE
    x: Tensor
    count: int

    def source(self, purpose: str, group: int, rows: int) -> NoiseSource:
        """Noise for the rows of one group."""
        return NoiseSource.at(torch.device("cpu"), torch.float64, rows, seed=0, purpose=purpose, step=group)

    def repeated(self, rows: int) -> Tensor:
        """The image in every row."""
        return self.x.expand(rows, *self.x.shape)

    def single(self, sampler_for: Callable[[int], Sampler]) -> Objective:
        """The training objective without free bits, with one sample per draw."""

        def objective(group: int) -> Tensor:
            noise = self.model.noise(self.source("noise", group, self.count))
            terms = self.model(self.repeated(self.count), noise, sampler_for(group))
            return surrogate_objective(terms, NO_FREEBITS).value

        return objective

    def several(self, estimator: Callable[[Tensor, Tensor], Tensor], value: Callable[..., Tensor]) -> Objective:
        """An estimator with S samples per draw."""

        def objective(group: int) -> Tensor:
            rows = SAMPLES * self.count
            noise = self.model.hard_noise(self.source("independent", group, rows))
            terms = self.model(self.repeated(rows), noise, independent)
            return estimator(value(terms).view(SAMPLES, -1), log_q(terms).view(SAMPLES, -1))

        return objective

    def rao(self, tau: float) -> Callable[[int], Sampler]:
        """The sampler of `gumbel_rao` for each group."""

        def sampler(group: int) -> Sampler:
            sources = [self.source(f"conditional {r}", group, self.count) for r in range(CONDITIONAL)]
            return gumbel_rao(tau, conditional_noise(self.model, sources))

        return sampler


@dataclass(frozen=True)
class Measured:
    """Means over groups of draws, and the exact value and gradient that they estimate.

    Attributes:
        values: the mean value of each group, (G,), nats.
        gradients: the mean gradient of each group, (G, P).
        value: the exact value, nats.
        gradient: the exact gradient, (P,).
        count: the number of draws in a group.
    """

    values: Tensor
    gradients: Tensor
    value: float
    gradient: Tensor
    count: int

    @property
    def value_bias(self) -> tuple[float, float]:
        """The bias of the value and its standard error, nats."""
        return (self.values - self.value).mean().item(), self.values.std().item() / math.sqrt(len(self.values))

    @property
    def noise(self) -> float:
        """E ‖mean gradient − its expectation‖² over the squared norm of the exact gradient."""
        return (self.gradients.var(0).sum() / len(self.gradients) / self.gradient.square().sum()).item()

    @property
    def variance(self) -> float:
        """Trace of the covariance of the gradient of one draw, over the squared norm of the exact gradient."""
        return self.noise * len(self.gradients) * self.count

    @property
    def gradient_bias(self) -> float:
        """‖E g − exact‖/‖exact‖, corrected for the noise of the mean."""
        distance = (self.gradients.mean(0) - self.gradient).square().sum() / self.gradient.square().sum()
        return math.sqrt(max(distance.item() - self.noise, 0.0))

    @property
    def cosine(self) -> float:
        """Cosine between E g and the exact gradient, corrected for the noise of the mean."""
        mean, exact = self.gradients.mean(0), self.gradient
        square = (mean.square().sum() / exact.square().sum()).item() - self.noise
        along = (mean @ exact / exact.square().sum()).item()
        return max(-1.0, min(1.0, along / math.sqrt(square))) if square > 0 else math.nan

    @property
    def largest_gradient_bias(self) -> float:
        """The largest |bias|, in standard errors, of the projections on some fixed random directions."""
        directions = torch.randn(
            len(self.gradient), DIRECTIONS, generator=torch.Generator().manual_seed(0), dtype=self.gradient.dtype
        )
        off = (self.gradients - self.gradient) @ directions
        return (off.mean(0).abs() / (off.std(0) / math.sqrt(len(off)))).max().item()


def exact_bound(model: HDVAE, x: Tensor, samples: int) -> tuple[float, Tensor]:
    """L_S (nats) and its gradient in the parameters of the encoder, (P,), by enumeration."""
    bound = enumerate_exactly(model, x).bound(samples)
    return bound.item(), flat_gradient(bound, encoder(model))


def objectives(batch: Draws) -> dict[tuple[str, float | None], Objective]:
    """All estimators, by name and temperature."""
    single: Mapping[str, Callable[[float], Callable[[int], Sampler]]] = {
        "concrete": lambda tau: lambda group: relaxed(tau),
        "straight_through": lambda tau: lambda group: straight_through(tau),
        "gumbel_rao": batch.rao,
        "reinmax": lambda tau: lambda group: reinmax(tau),
    }
    found: dict[tuple[str, float | None], Objective] = {
        (name, tau): batch.single(make(tau)) for name, make in single.items() for tau in TAUS
    }
    found["rloo", None] = batch.several(rloo, expected_log_weight)
    found["vimco", None] = batch.several(vimco, log_weight)
    return found


def measure(model: HDVAE, x: Tensor, draws: int) -> dict[tuple[str, float | None], Measured]:
    """The measurements of all estimators, by name and temperature."""
    count = max(draws // GROUPS, 1)
    bounds = {samples: exact_bound(model, x, samples) for samples in (1, SAMPLES)}
    measured = {}
    for key, objective in objectives(Draws(model, x, count)).items():
        values, gradients = [], []
        for group in range(GROUPS):
            value = objective(group)
            values.append(value.detach().double())
            gradients.append(flat_gradient(value, encoder(model)))
        bound, gradient = bounds[SAMPLES if key[0] == "vimco" else 1]
        measured[key] = Measured(torch.stack(values), torch.stack(gradients), bound, gradient, count)
    return measured


def table(measured: Mapping[tuple[str, float | None], Measured]) -> str:
    """The measurements as a Markdown table."""
    head = ["estimator", "τ", "value bias, nats", "gradient bias", "±", "variance", "cosine"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for (name, tau), one in measured.items():
        bias, error = one.value_bias
        rows.append(
            [
                f"`{name}`",
                "" if tau is None else f"{tau:g}",
                f"{bias:+.4f} ± {error:.4f}",
                f"{one.gradient_bias:.4f}",
                f"{math.sqrt(one.noise):.4f}",
                f"{one.variance:.3g}",
                f"{one.cosine:.4f}",
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def bars(measured: Mapping[tuple[str, float | None], Measured]) -> dict[str, dict[str, float]]:
    """The biases of the unbiased estimators in standard errors, with their limits."""
    hard = [one.value_bias for (name, _), one in measured.items() if name != "concrete"]
    found = {
        "hard_value_bias_in_se": max(abs(bias) / error for bias, error in hard),
        "rloo_gradient_bias_in_se": measured["rloo", None].largest_gradient_bias,
        "vimco_gradient_bias_in_se": measured["vimco", None].largest_gradient_bias,
    }
    return {name: {"value": round(value, 3), "limit": LIMIT} for name, value in found.items()}


def document(arguments: argparse.Namespace, measured: Mapping[tuple[str, float | None], Measured]) -> str:
    """The results and their explanation in Markdown."""
    draws = next(iter(measured.values())).count * GROUPS
    return f"""# Estimators of the gradient against exact gradients

Written by `python -m benchmarks.estimators --wiring {arguments.wiring} --classes {arguments.classes} \
--seed {arguments.seed} --draws {arguments.draws} --out FILE.md`.

Two layers of factored memories ({arguments.classes} classes; z_1 has two variables, z_2 one), wired as
`{arguments.wiring}`, with random weights and one image of 2 × 3 pixels, so that all latent configurations can be
enumerated. {draws} draws of each estimator; estimators with one sample share their noise, and so do those with two.

- The exact value and gradient are those of the ELBO; for `vimco` those of L_{SAMPLES}.
- Gradients are with respect to the encoder: the bottom-up pass, the maps to q, and the keys.
- Gradient bias: ‖E g − g*‖/‖g*‖, corrected for the noise of the estimated mean. `±` is that noise: a bias below
  about twice this value can be noise.
- Variance: the trace of the covariance of one draw's gradient, divided by ‖g*‖². A draw is one sample of the latent
  variables; for `rloo` and `vimco` it is {SAMPLES}, at twice the cost.
- Cosine: between E g and g*, with E g corrected for its noise.
- `gumbel_rao` uses {CONDITIONAL} conditional draws.

{table(measured)}
"""


def main() -> None:
    """Measure, print, and write the results if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--draws", type=int, default=100_000, help="draws of each estimator (default: %(default)s)")
    parser.add_argument("--wiring", choices=sorted(WIRINGS), default="skip_lvae")
    parser.add_argument("--classes", type=int, choices=(4, 9), default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the image (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a Markdown file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured = measure(*small_model(arguments.wiring, arguments.classes, arguments.seed), arguments.draws)
    text = document(arguments, measured)
    if arguments.out is not None:
        write_atomically(arguments.out, text.encode())
    print(text)
    report("estimators", bars(measured))


if __name__ == "__main__":
    main()
