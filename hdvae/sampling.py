"""Pictures of what a model has learned: samples of the generative model at τ = 0."""

from __future__ import annotations

import torch
from torch import Tensor

from hdvae.model import HDVAE, independent
from hdvae.randomness import NoiseSource


@torch.no_grad()
def prior_samples(model: HDVAE, count: int, seed: int) -> Tensor:
    """Pixel probabilities of `count` samples of p(z) with hard latent variables, (count, H, W)."""
    training = model.training
    model.eval()
    parameter = next(model.parameters())
    source = NoiseSource.at(parameter.device, parameter.dtype, count, seed=seed, purpose="prior samples", step=0)
    _, logits = model.generate(model.hard_noise(source), independent)
    model.train(training)
    return logits.sigmoid()
