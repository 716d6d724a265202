"""Score-function estimators: unbiased gradients of the ELBO and of L_S from several hard samples of each image.

They are noisier than the gradients of relaxed samples and of `hdvae.objectives.hard_forward`.

Shape letters: S samples, B batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hdvae.latents.distributions import Categorical
from hdvae.network.terms import Terms


def gradient_only(value: Tensor) -> Tensor:
    """Zeros that have the gradient of `value`."""
    return value - value.detach()


def log_q(terms: Terms) -> Tensor:
    """Log q(z|x) of the hard samples, nats per image: (B,), float64.

    The gradient of a normal variable flows through its reparametrised sample, so its term here has no gradient.
    """
    each = [layer.q.log_prob(layer.draw.hard).double() for layer in terms.layers]
    score = [isinstance(layer.q, Categorical) for layer in terms.layers]
    return torch.stack([term if scored else term.detach() for term, scored in zip(each, score, strict=True)]).sum(0)


def rloo(value_SB: Tensor, log_q_SB: Tensor) -> Tensor:
    """The mean of values under q, with an unbiased gradient. The baseline of a sample is the mean of the others.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
        value_SB: values of S independent samples of each image, nats, e.g. `expected_log_weight`.
        log_q_SB: `log_q` of the same samples.

    Returns:
        A scalar, nats per image.

    Raises:
        ValueError: there are fewer than two samples, or the shapes differ.
    """
    samples = _checked_count(value_SB, log_q_SB)
    # f − (mean of the others) = (f − mean of all) · S/(S − 1).
    signal = (value_SB - value_SB.mean(0)).detach() * (samples / (samples - 1))
    return value_SB.mean() + gradient_only(signal * log_q_SB).mean()


def vimco(log_weight_SB: Tensor, log_q_SB: Tensor) -> Tensor:
    """L_S, the importance-weighted bound, with an unbiased gradient.

    The baseline of a sample is the bound with its weight replaced by the geometric mean of the other weights.

    Source: Mnih & Rezende 2016, "Variational inference for Monte Carlo objectives".

    Args:
        log_weight_SB: log p(x, z)/q(z|x) of S independent samples of each image, nats, from `log_weight`.
        log_q_SB: `log_q` of the same samples.

    Returns:
        A scalar, nats per image.

    Raises:
        ValueError: there are fewer than two samples, or the shapes differ.
    """
    samples = _checked_count(log_weight_SB, log_q_SB)
    bound = log_weight_SB.logsumexp(0) - math.log(samples)
    signal = (bound - _bounds_without(log_weight_SB)).detach()
    return bound.mean() + gradient_only((signal * log_q_SB).sum(0)).mean()


def _bounds_without(log_weight_SB: Tensor) -> Tensor:
    """The baseline L_{−s} of `vimco` for each sample s: (S, B)."""
    samples = len(log_weight_SB)
    others = (log_weight_SB.sum(0) - log_weight_SB) / (samples - 1)
    own = torch.eye(samples, dtype=torch.bool, device=log_weight_SB.device).unsqueeze(-1)
    return torch.where(own, others, log_weight_SB).logsumexp(1) - math.log(samples)


def _checked_count(value_SB: Tensor, log_q_SB: Tensor) -> int:
    """The number of samples S, after a check of the shapes."""
    if value_SB.dim() != 2 or value_SB.shape != log_q_SB.shape:
        raise ValueError(f"expected two tensors (S, B), got {tuple(value_SB.shape)} and {tuple(log_q_SB.shape)}")
    if len(value_SB) < 2:
        raise ValueError("a baseline from the other samples needs at least 2 samples of each image")
    return len(value_SB)
