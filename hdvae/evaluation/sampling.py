"""Samples and reconstructions with hard latent variables (τ = 0), as pixel probabilities in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from hdvae.network.model import HDVAE, evaluating
from hdvae.network.samplers import Noise, independent
from hdvae.randomness.noise import NoiseSource


def _noise(model: HDVAE, count: int, seed: int, purpose: str, step: int = 0) -> Noise:
    parameter = next(model.parameters())
    source = NoiseSource.at(parameter.device, parameter.dtype, count, seed=seed, purpose=purpose, step=step)
    return model.hard_noise(source)


def prior_samples(model: HDVAE, count: int, seed: int) -> Tensor:
    """Samples of the generative model (figures 2 and 3 of the paper), (count, H, W)."""
    with evaluating(model):
        _, logits = model.generate(_noise(model, count, seed, "prior samples"), independent)
    return logits.sigmoid()


def reconstructions(model: HDVAE, images: Tensor, seed: int) -> Tensor:
    """Reconstructions of images (n, H, W) from one hard sample of their posterior: (n, H, W)."""
    x = images.to(next(model.parameters()).dtype)
    with evaluating(model):
        terms = model(x, _noise(model, len(x), seed, "reconstructions"), independent)
        _, logits = model.score({layer.node: layer.draw for layer in terms.layers})
    return logits.sigmoid()


def layer_resamples(model: HDVAE, samples: int, times: int, seed: int) -> Tensor:
    """Samples of the prior in which the lower layers are resampled and the upper layers are kept.

    They show what each layer determines.

    Args:
        model: the model.
        samples: the number of prior samples to start from.
        times: how often the lower layers are resampled.
        seed: the seed of the noise.

    Returns:
        (samples, L, 1 + times, H, W): for each sample and each i = 1 … L, the sample itself, then the sample with
        z_1 … z_i resampled and z_{>i} kept. For i = L everything is resampled.
    """
    with evaluating(model):
        draws, logits = model.generate(_noise(model, samples, seed, "prior samples"), independent)
        rows = []
        for i in range(1, len(model.levels) + 1):
            kept = {node: draw for node, draw in draws.items() if node.level > i}
            row = [logits.sigmoid()]
            for time in range(times):
                noise = _noise(model, samples, seed, f"resampled up to {i}", time)
                row.append(model.generate(noise, independent, kept)[1].sigmoid())
            rows.append(torch.stack(row, 1))
    return torch.stack(rows, 1)
