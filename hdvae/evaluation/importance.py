"""The importance-weighted bound L_S of each image (Burda et al. 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import parametrize

from hdvae.evaluation.memory import rows_at_once
from hdvae.network.model import HDVAE
from hdvae.network.samplers import independent
from hdvae.objectives.objectives import log_weight
from hdvae.randomness.noise import NoiseSource


@torch.no_grad()
def importance_weighted(model: HDVAE, images: Tensor, samples: int, seed: int) -> Tensor:
    """Log (1/S) Σ_s p(x, z_s)/q(z_s|x) of each image with hard samples z_s: (n,), float64, nats.

    Args:
        model: the model in evaluation mode.
        images: images of 0 and 1, (n, H, W).
        samples: S, the number of samples of each image.
        seed: the seed of the noise.
    """
    rows, parts = rows_at_once(model), []
    with parametrize.cached():
        for first in range(0, len(images), rows):
            x = images[first : first + rows].to(next(model.parameters()).dtype)
            parts.append(log_mean_weights(model, x, model.encode(x), [samples], seed, first, rows)[0])
    return torch.cat(parts)


def log_mean_weights(
    model: HDVAE, x: Tensor, encoded: Sequence[Tensor], counts: Sequence[int], seed: int, first: int, rows: int
) -> Tensor:
    """L_S of each image of a chunk for each S of `counts`, which increase: (counts, B), float64, nats.

    The samples of a smaller S are the first ones of a larger. Memory does not grow with S.

    Args:
        model: the model in evaluation mode.
        x: the chunk, floating point, (B, H, W).
        encoded: the result of `HDVAE.encode` for it.
        counts: the numbers of samples S.
        seed: the seed of the noise.
        first: the index of the first image. The noise of an image is a function of its index.
        rows: how many samples go through the network at once, over all images.
    """
    at_once = max(1, rows // len(x))
    total, found = torch.full((1, len(x)), -math.inf, dtype=torch.float64, device=x.device), []
    for start in range(0, counts[-1], at_once):
        chosen = range(start, min(start + at_once, counts[-1]))
        sources = [
            NoiseSource.at(x.device, x.dtype, len(x), seed=seed, purpose="importance", step=s, first=first)
            for s in chosen
        ]
        terms = model.terms_of_samples(x, encoded, [model.hard_noise(source) for source in sources], independent)
        weights = torch.cat([total, log_weight(terms).view(len(chosen), len(x))])
        ends = [count for count in counts if start < count <= chosen.stop]
        found += [weights[: 1 + end - start].logsumexp(0) - math.log(end) for end in ends]
        total = weights.logsumexp(0, keepdim=True)
    return torch.stack(found)
