"""Objectives: from the terms of the model to numbers, in nats per image.

`surrogate` and `elbo` are one formula (eq. 14) on different chains; training uses the form with the finite sums,
so that each layer's KL reaches its own encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hdvae.model import LayerTerms, Terms


def log_weight(terms: Terms) -> Tensor:
    """Log p(x, z)/q(z|x) of each image's sample with the hard terms of eq. 14: (B,), float64.

    On the hard chain it is an importance weight; on the relaxed chain a sample of the surrogate (eq. 5).
    """
    return terms.log_px.double() - torch.stack([layer.log_ratio().double() for layer in terms.layers]).sum(0)


def expected_log_weight(terms: Terms) -> Tensor:
    """`log_weight` with finite sums in place of samples where they are exact: (B,), float64. For means only.

    Its expectation is that of `log_weight`, but it is no importance weight: never put it into a log-mean-exp.
    """
    ratios = [layer.expected_log_ratio().double() for layer in terms.layers]
    return terms.log_px.double() - torch.stack(ratios).sum(0)


def training_kl(layer: LayerTerms) -> Tensor:
    """The KL term of one layer for training: value of eq. 14 in expectation, with a gradient: (B,).

    Where p's context is sampled first it is KL(q ‖ p). Elsewhere log p(H(z̃)|·) keeps its value and takes the
    gradient of eq. 15, Σ_k z̃_k log p_k, since H itself has none.
    """
    if layer.finite_kl:
        return layer.q.kl(layer.p)
    soft = layer.p.expected_log_prob(layer.draw)
    log_p = soft + (layer.p.log_prob(layer.draw.hard) - soft).detach()
    return -layer.q.entropy() - log_p


@dataclass(frozen=True)
class Objective:
    """What a training step climbs and reports, scalars.

    Attributes:
        value: the objective with free bits.
        log_px: mean log p(x|z̃).
        kl: mean KL of each layer, without free bits.
    """

    value: Tensor
    log_px: Tensor
    kl: Sequence[Tensor]

    @property
    def surrogate_elbo(self) -> Tensor:
        """The objective without free bits: eq. 5 on this batch."""
        return self.log_px - torch.stack(list(self.kl)).sum()


def surrogate_objective(terms: Terms, freebits: float) -> Objective:
    """Eq. 5 with free bits: mean log p(x|z̃) − Σ_layers max(λ, mean KL_layer) (Kingma et al. 2016).

    The mean over the batch is taken before the maximum: a layer is free while its average image is.

    Args:
        terms: of the relaxed chain.
        freebits: λ, nats for each layer.
    """
    log_px = terms.log_px.mean()
    kl = [training_kl(layer).mean() for layer in terms.layers]
    value = log_px - torch.stack([k.clamp(min=freebits) for k in kl]).sum()
    return Objective(value, log_px, kl)
