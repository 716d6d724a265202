"""Evaluation: the bounds and the relaxation bias of a trained model on a fixed set of images.

δ_τ is a difference of two expectations, so it is measured: on the same images and the same noise, a surrogate
sample minus a hard sample, averaged over draws, then over images. The noise depends on the seed, the draw and
the image's place, not on the step, so curves over training and the arms of a study share it as well.

All averages over draws and images are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.experiment import EvaluationConfig
from hdvae.metrics import at_samples, at_tau
from hdvae.model import HDVAE, Terms, evaluating, hard, independent, relaxed
from hdvae.objectives import expected_log_weight, log_weight
from hdvae.randomness import BLOCK, NoiseSource, derive

ROWS = 64 * BLOCK
"""Images × samples that go through the network at once."""


@dataclass
class PerImage:
    """Per-image means over draws, float64, each (images,).

    Attributes:
        log_px: of the hard chain.
        kl: of the hard chain, for each layer by name.
        surrogate: surrogate ELBO for each temperature.
    """

    log_px: Tensor
    kl: dict[str, Tensor]
    surrogate: dict[float, Tensor] = field(default_factory=dict)

    @property
    def elbo(self) -> Tensor:
        """The ELBO of each image."""
        return self.log_px - torch.stack(list(self.kl.values())).sum(0)


def choose_images(count: int, available: int) -> np.ndarray:
    """A fixed random subset: `count` of `available` indices, in order (all, if there are fewer).

    Never the first ones: some published files are sorted by class.
    """
    if count >= available:
        return np.arange(available)
    chosen = np.random.Generator(np.random.Philox(derive(0, "evaluation images"))).permutation(available)
    return np.sort(chosen[:count])


@torch.no_grad()
def measure(model: HDVAE, images: Tensor, tau: Sequence[float], draws: int, seed: int) -> PerImage:
    """The hard and the relaxed chains of every image on common random numbers.

    Args:
        model: in evaluation mode.
        images: 0 and 1, (n, H, W).
        tau: temperatures of the relaxed chains.
        draws: M, noise draws for each image.
        seed: of the noise.
    """
    with parametrize.cached():
        chunks = [
            _measure_chunk(model, images[first : first + ROWS], first, tau, draws, seed)
            for first in range(0, len(images), ROWS)
        ]
    return PerImage(
        log_px=torch.cat([c.log_px for c in chunks]),
        kl={name: torch.cat([c.kl[name] for c in chunks]) for name in chunks[0].kl},
        surrogate={t: torch.cat([c.surrogate[t] for c in chunks]) for t in tau},
    )


def _measure_chunk(model: HDVAE, images: Tensor, first: int, tau: Sequence[float], draws: int, seed: int) -> PerImage:
    x = images.to(next(model.parameters()).dtype)
    encoded = model.encode(x)
    soft = model.config.latent == "categorical"  # normal variables are never relaxed: the chains coincide
    totals: PerImage | None = None
    for draw in range(draws):
        source = NoiseSource.at(x.device, x.dtype, len(x), seed=seed, purpose="evaluation", step=draw, first=first)
        noise = model.noise(source)
        one = _one_draw(model.terms(x, encoded, noise, hard), model)
        for t in tau:
            one.surrogate[t] = expected_log_weight(model.terms(x, encoded, noise, relaxed(t))) if soft else one.elbo
        totals = one if totals is None else _add(totals, one)
    assert totals is not None
    return _scaled(totals, 1 / draws)


def _one_draw(terms: Terms, model: HDVAE) -> PerImage:
    kl = {model.name(layer.node): layer.expected_log_ratio().double() for layer in terms.layers}
    return PerImage(log_px=terms.log_px.double(), kl=kl)


def _add(a: PerImage, b: PerImage) -> PerImage:
    return PerImage(
        a.log_px + b.log_px,
        {name: a.kl[name] + b.kl[name] for name in a.kl},
        {t: a.surrogate[t] + b.surrogate[t] for t in a.surrogate},
    )


def _scaled(a: PerImage, factor: float) -> PerImage:
    return PerImage(
        a.log_px * factor,
        {name: value * factor for name, value in a.kl.items()},
        {t: value * factor for t, value in a.surrogate.items()},
    )


@torch.no_grad()
def importance_weighted(model: HDVAE, images: Tensor, samples: int, seed: int) -> Tensor:
    """Log (1/S) Σ_s p(x, z_s)/q(z_s|x) of each image with hard samples: (n,), float64, nats (Burda et al. 2015).

    The encoder runs once for each image; log-weights stay in log space.
    """
    chunk = min(len(images), ROWS)
    with parametrize.cached():
        parts = [
            _log_mean_weight(model, images[first : first + chunk], first, samples, seed)
            for first in range(0, len(images), chunk)
        ]
    return torch.cat(parts)


def _log_mean_weight(model: HDVAE, images: Tensor, first: int, samples: int, seed: int) -> Tensor:
    x = images.to(next(model.parameters()).dtype)
    encoded = model.encode(x)
    at_once = max(1, ROWS // len(x))
    weights = []
    for start in range(0, samples, at_once):
        chosen = range(start, min(start + at_once, samples))
        sources = [
            NoiseSource.at(x.device, x.dtype, len(x), seed=seed, purpose="importance", step=s, first=first)
            for s in chosen
        ]
        noises = [model.hard_noise(source) for source in sources]
        noise = {node: torch.cat([one[node] for one in noises]) for node in model.nodes}
        terms = model.terms(_tiled(x, len(chosen)), [_tiled(h, len(chosen)) for h in encoded], noise, independent)
        weights.append(log_weight(terms).view(len(chosen), len(x)))
    return torch.cat(weights).logsumexp(0) - math.log(samples)


def _tiled(batch: Tensor, times: int) -> Tensor:
    """The batch `times` times, one copy after another: (B, …) → (times · B, …)."""
    return batch.repeat(times, *[1] * (batch.dim() - 1))


def summarise(measured: PerImage) -> dict[str, float]:
    """Means over images, with the bias at each temperature; bare names are the first temperature's."""
    elbo = measured.elbo
    metrics = {
        "elbo": elbo.mean().item(),
        "log_px": measured.log_px.mean().item(),
        "kl": sum(value.mean().item() for value in measured.kl.values()),
    }
    metrics |= {f"kl/{name}": value.mean().item() for name, value in measured.kl.items()}
    for i, (tau, surrogate) in enumerate(measured.surrogate.items()):
        bias = _bias(surrogate, elbo)
        metrics |= bias if i == 0 else {}
        metrics |= {at_tau(name, tau): value for name, value in bias.items()}
    return metrics


def _bias(surrogate: Tensor, elbo: Tensor) -> dict[str, float]:
    difference = surrogate - elbo
    signed = surrogate.mean().item() - elbo.mean().item()
    bias = {
        "surrogate_elbo": surrogate.mean().item(),
        "relaxation_bias": abs(signed),
        "relaxation_bias_signed": signed,
    }
    if len(difference) > 1:
        bias["relaxation_bias_se"] = difference.std().item() / math.sqrt(len(difference))
    return bias


def evaluate(
    model: HDVAE, images: Tensor, config: EvaluationConfig, seed: int, *, importance: bool
) -> dict[str, float]:
    """Every metric of an evaluation, by its name without the split.

    Args:
        model: any mode; it is left as it was.
        images: 0 and 1, (n, H, W), already the subset to evaluate on.
        config: draws, samples, temperatures.
        seed: of the noise.
        importance: also `iw_elbo`, which costs `config.samples` passes.
    """
    with evaluating(model):
        metrics = summarise(measure(model, images, config.tau, config.draws, seed))
        if importance:
            value = importance_weighted(model, images, config.samples, seed).mean().item()
            metrics |= {"iw_elbo": value, at_samples("iw_elbo", config.samples): value}
    return metrics
