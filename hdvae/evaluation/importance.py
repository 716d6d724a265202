"""The importance-weighted bound L_S of each image (Burda et al. 2015)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.evaluation.chains import ROWS
from hdvae.network.model import HDVAE
from hdvae.network.samplers import independent
from hdvae.objectives.objectives import log_weight
from hdvae.randomness.noise import NoiseSource


@torch.no_grad()
def importance_weighted(model: HDVAE, images: Tensor, samples: int, seed: int, start: int = 0) -> Tensor:
    """Log (1/S) Σ_s p(x, z_s)/q(z_s|x) of each image with hard samples z_s: (n,), float64, nats.

    The encoder runs once for each image.

    Args:
        model: the model in evaluation mode.
        images: images of 0 and 1, (n, H, W).
        samples: S, the number of samples of each image.
        seed: the seed of the noise.
        start: the index of the first image, see `hdvae.evaluation.chains.measure`.
    """
    chunk = min(len(images), ROWS)
    with parametrize.cached():
        parts = [
            _log_mean_weight(model, images[first : first + chunk], start + first, samples, seed)
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
        terms = model.terms_of_samples(x, encoded, [model.hard_noise(source) for source in sources], independent)
        weights.append(log_weight(terms).view(len(chosen), len(x)))
    return torch.cat(weights).logsumexp(0) - math.log(samples)
