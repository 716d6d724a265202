"""Objectives: from the terms of the model to numbers, in nats per image.

The surrogate and the ELBO are the same formula (eq. 14) on different chains. Training uses the form with finite sums,
so that the KL of each layer trains the encoder of that layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hdvae.network.terms import LayerTerms, Terms
from hdvae.objectives.score_function import log_q
from hdvae.workers import ALONE, Workers


def log_weight(terms: Terms) -> Tensor:
    """Log p(x, z)/q(z|x) of the sample of each image with the hard terms of eq. 14: (B,), float64.

    On the hard chain this is a log importance weight; on the relaxed chain it is a sample of the surrogate (eq. 5).
    """
    return terms.log_px.double() - torch.stack([layer.log_ratio().double() for layer in terms.layers]).sum(0)


def expected_log_weight(terms: Terms) -> Tensor:
    """`log_weight` with finite sums in place of samples where these are exact: (B,), float64. For means only.

    It has the expectation of `log_weight` but is not an importance weight: do not use it in a log-mean-exp.
    """
    ratios = [layer.expected_log_ratio().double() for layer in terms.layers]
    return terms.log_px.double() - torch.stack(ratios).sum(0)


def training_kl(layer: LayerTerms, treatment: str = "analytic") -> Tensor:
    """The KL term of one layer in the training objective: (B,), nats per image.

    - `analytic`: the expectation of eq. 14 over this layer's sample. If the context of p is sampled before this layer,
      that is KL(q ‖ p), with its exact gradient. Otherwise it is −entropy(q) − log p(H(z̃)|·), where the last term has
      the gradient of eq. 15, −Σ_k z̃_k log p_k, since H has none.
    - `hard`: eq. 14 without changes. H has no gradient and E[∇ log q(H(z̃))] = 0, so the term does not train its
      encoder.
    - `relaxed`: eq. 15 for q and for p. Its value differs from eq. 14, and its gradient is biased.
    - `concrete`: the densities of eq. 16 for q and for p, both at the temperature of the sample. This is the exact term
      of another, continuous model. (Maddison et al. 2016 give the prior a temperature of its own.)
    """
    q, p, draw = layer.q, layer.p, layer.draw
    if treatment == "hard":
        return layer.log_ratio()
    if treatment == "relaxed":
        return q.expected_log_prob(draw) - p.expected_log_prob(draw)
    if treatment == "concrete":
        return q.concrete_log_prob(draw) - p.concrete_log_prob(draw)
    if layer.finite_kl:
        return q.kl(p)
    soft = p.expected_log_prob(draw)
    log_p = soft + (p.log_prob(draw.hard) - soft).detach()
    return -q.entropy() - log_p


@dataclass(frozen=True)
class Objective:
    """The training objective of one batch and its parts, scalars in nats per image.

    With several workers, each worker holds the means over its own share of the batch.

    Attributes:
        value: the objective with free bits, which training maximises.
        log_px: mean of log p(x|z̃).
        kl: for each layer, the mean KL of eq. 14 without free bits, whichever treatment is used for training.
        spent: for each layer, the KL term that is subtracted in `value`: with the treatment and the free bits.
    """

    value: Tensor
    log_px: Tensor
    kl: Sequence[Tensor]
    spent: Sequence[Tensor]

    @property
    def surrogate_elbo(self) -> Tensor:
        """The surrogate (eq. 5) of this batch, without free bits."""
        return self.log_px - torch.stack(list(self.kl)).sum()


def surrogate_objective(
    terms: Terms, freebits: float, *, kl: str = "analytic", per_image: bool = False, workers: Workers = ALONE
) -> Objective:
    """Eq. 5 with free bits: mean log p(x|z̃) − Σ_layers max(λ, mean KL_layer) (Kingma et al. 2016).

    Args:
        terms: the terms of the relaxed chain.
        freebits: λ, nats for each layer; 0 is off.
        kl: the treatment of the KL terms, see `training_kl`.
        per_image: whether to take the maximum for each image, before the mean over the batch, instead of after it.
        workers: the workers that share the batch; the mean KL is over all of their shares.
    """
    log_px = terms.log_px.mean()
    trained, least = [training_kl(layer, kl) for layer in terms.layers], _least(freebits)
    if per_image:
        spent = [k.clamp(min=least).mean() for k in trained]
    else:
        own = [k.mean() for k in trained]
        spent = [torch.where(k < least, freebits, mine) for mine, k in zip(own, workers.mean(own), strict=True)]
    shown = trained if kl == "analytic" else [layer.expected_log_ratio() for layer in terms.layers]
    return Objective(log_px - torch.stack(spent).sum(), log_px, [k.mean() for k in shown], spent)


def _least(freebits: float) -> float:
    """The KL below which free bits take its place. λ = 0 is off: estimates from one sample may be negative."""
    return freebits if freebits > 0 else -math.inf


def score_objective(
    terms: Terms,
    samples: int,
    freebits: float,
    *,
    bound: Callable[[Tensor, Tensor], Tensor],
    sampled_kl: bool,
    per_image: bool = False,
    workers: Workers = ALONE,
) -> Objective:
    """A bound of log p(x) with free bits and score-function gradients (`hdvae.objectives.score_function`).

    Free bits: if the KL of a layer is not above λ, λ is subtracted from the objective in its place, and the layer's
    log-ratio does not enter the log-weights. Its own KL then gives no gradient.

    Args:
        terms: the terms of a hard chain of S · B images: S copies of the batch, one after another.
        samples: S ≥ 2.
        freebits: λ, nats for each layer; 0 is off.
        bound: `rloo` or `vimco`: (log-weights (S, B), log q (S, B)) → a scalar.
        sampled_kl: whether the log-weights need the sampled log-ratios instead of finite sums.
        per_image: whether λ applies to the KL of every image instead of the mean over the batch.
        workers: the workers that share the batch; the mean KL is over all of their shares.
    """
    shown = [layer.expected_log_ratio().view(samples, -1) for layer in terms.layers]
    ratios = [layer.log_ratio().view(samples, -1) for layer in terms.layers] if sampled_kl else shown
    spend = [k.detach().mean(0) for k in shown] if per_image else workers.mean([k.mean() for k in shown])
    spends = [k > _least(freebits) for k in spend]
    counted = [ratio * over for ratio, over in zip(ratios, spends, strict=True)]
    value = terms.log_px.double().view(samples, -1) - torch.stack(counted).double().sum(0)
    total = bound(value, log_q(terms).view(samples, -1))
    free = [freebits * (~over).double().mean() for over in spends]
    spent = [c.mean() + f for c, f in zip(counted, free, strict=True)]
    return Objective(total - torch.stack(free).sum(), terms.log_px.mean(), [k.mean() for k in shown], spent)


def penalised(objective: Objective, bound: Tensor) -> Objective:
    """The relaxed ELBO (eqs. 8 and 12): an objective minus the batch mean of a Lipschitz bound (B,)."""
    return replace(objective, value=objective.value - bound.mean())
