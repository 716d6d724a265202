"""Objectives: from the terms of the model to numbers, in nats per image.

`surrogate` and `elbo` are one formula (eq. 14) on different chains; training uses the form with the finite sums,
so that each layer's KL reaches its own encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hdvae.network.model import LayerTerms, Terms
from hdvae.objectives.estimators import log_q, rloo, vimco
from hdvae.workers import ALONE, Workers


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


def training_kl(layer: LayerTerms, treatment: str = "analytic") -> Tensor:
    """The KL term of one layer as training sees it: (B,).

    - `analytic`: the value of eq. 14 in expectation, with a gradient. Where p's context is sampled first it is
      KL(q ‖ p). Elsewhere log p(H(z̃)|·) keeps its value and takes the gradient of eq. 15, Σ_k z̃_k log p_k, since
      H itself has none.
    - `hard`: eq. 14 as it is. H has no gradient and E[∇ log q(H(z̃))] = 0, so the term does not train its encoder.
    - `relaxed`: eq. 15 for q and for p. Its value differs from eq. 14; its gradient is biased, and usable.
    - `concrete`: the densities of eq. 16 for q and for p: a different, continuous model, right for itself.
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
    """What a training step climbs and reports, scalars. Of several workers each has that of its share.

    Attributes:
        value: the objective with free bits; its gradient is what training follows.
        log_px: mean log p(x|z̃).
        kl: mean of eq. 14's KL of each layer, without free bits, whatever treatment trains.
        spent: what each layer's KL costs the objective, with the treatment and the free bits of training.
    """

    value: Tensor
    log_px: Tensor
    kl: Sequence[Tensor]
    spent: Sequence[Tensor]

    @property
    def surrogate_elbo(self) -> Tensor:
        """Eq. 5 on this batch, without free bits."""
        return self.log_px - torch.stack(list(self.kl)).sum()


def surrogate_objective(
    terms: Terms, freebits: float, *, kl: str = "analytic", per_image: bool = False, workers: Workers = ALONE
) -> Objective:
    """Eq. 5 with free bits: mean log p(x|z̃) − Σ_layers max(λ, mean KL_layer) (Kingma et al. 2016).

    Args:
        terms: of the relaxed chain.
        freebits: λ, nats for each layer.
        kl: the treatment, see `training_kl`.
        per_image: take the maximum for each image before the mean over the batch, instead of after it: then
            every image must spend λ, not only the average one.
        workers: that share the batch: its mean is over all their shares.
    """
    log_px = terms.log_px.mean()
    trained = [training_kl(layer, kl) for layer in terms.layers]
    if per_image:
        spent = [k.clamp(min=freebits).mean() for k in trained]
    else:
        own = [k.mean() for k in trained]
        spent = [torch.where(k < freebits, freebits, mine) for mine, k in zip(own, workers.mean(own), strict=True)]
    shown = trained if kl == "analytic" else [layer.expected_log_ratio() for layer in terms.layers]
    return Objective(log_px - torch.stack(spent).sum(), log_px, [k.mean() for k in shown], spent)


def score_objective(
    terms: Terms,
    samples: int,
    freebits: float,
    *,
    estimator: str = "rloo",
    per_image: bool = False,
    workers: Workers = ALONE,
) -> Objective:
    """The objective of `estimator: rloo` (the ELBO) or `vimco` (L_S), with score-function gradients.

    Free bits: a layer that spends less than λ costs λ, and has no part in what the samples are weighted by.

    Args:
        terms: of a hard chain for S · B images: the batch S times, one copy after another.
        samples: S ≥ 2.
        freebits: λ, nats for each layer.
        estimator: `rloo` or `vimco`.
        per_image: whether λ is for every image instead of the average one.
        workers: that share the batch: its mean is over all their shares.
    """
    sampled = estimator == "vimco"  # a finite sum inside a log-mean-exp would give a wrong limit
    shown = [layer.expected_log_ratio().view(samples, -1) for layer in terms.layers]
    ratios = [layer.log_ratio().view(samples, -1) for layer in terms.layers] if sampled else shown
    spend = [k.detach().mean(0) for k in shown] if per_image else workers.mean([k.mean() for k in shown])
    spends = [k > freebits for k in spend]
    counted = [ratio * over for ratio, over in zip(ratios, spends, strict=True)]
    value = terms.log_px.double().view(samples, -1) - torch.stack(counted).double().sum(0)
    bound = (vimco if sampled else rloo)(value, log_q(terms).view(samples, -1))
    free = [freebits * (~over).double().mean() for over in spends]
    spent = [c.mean() + f for c, f in zip(counted, free, strict=True)]
    return Objective(bound - torch.stack(free).sum(), terms.log_px.mean(), [k.mean() for k in shown], spent)


def penalised(objective: Objective, bound: Tensor) -> Objective:
    """The relaxed ELBO (eqs. 8 and 12): an objective minus the mean of a Lipschitz bound (B,)."""
    return replace(objective, value=objective.value - bound.mean())
