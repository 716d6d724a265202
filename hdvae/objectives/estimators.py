"""Estimators of the gradient, as an axis of study beside the relaxed chain (`hdvae.network.model.relaxed`).

Two kinds:

- Samplers (`straight_through`, `gumbel_rao`, `reinmax`): forward they are the hard chain, so the objective that
  they report is the ELBO's and has no relaxation bias; backward the sample has the gradient of something smooth,
  so the gradient is biased.
- Objectives (`rloo`, `vimco`): for several hard samples of each image, with the score function in the gradient.
  Unbiased for the ELBO and for L_S, and noisier.

Normal variables need none of them: the samplers give their reparametrised sample, and `log_q` counts it as the
path that it is.

Shape letters: S samples, B batch, N variables, K classes, R conditional draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hdvae.latents.distributions import Categorical, Distribution, Draw
from hdvae.latents.layers import MemoryLayer, StochasticLayer
from hdvae.network.model import HDVAE, Noise, Sampler, Temperature, Terms
from hdvae.network.wiring import Node
from hdvae.randomness.noise import NoiseSource

Surrogate = Callable[[Node, Tensor, Tensor, Tensor], Tensor]
"""(node, log π, noise, one-hot sample), all (B, N, K), → what the sample is differentiated as, (B, N, K)."""


def straight_through(tau: Temperature) -> Sampler:
    """The hard sample forward, the relaxed sample on the same noise backward, from `HDVAE.noise`.

    Source: Jang et al. 2016, "Categorical reparameterization with Gumbel-softmax", section 2.2.

    Args:
        tau: of the relaxed sample, > 0.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        return ((log_pi + noise) / _at(tau, node)).softmax(-1)

    return _hard_forward(surrogate, tau)


def gumbel_rao(tau: Temperature, conditional: Noise) -> Sampler:
    """`straight_through` with its gradient averaged over noise that has the same hard sample.

    The expected gradient is the same and its variance is smaller. The sample is drawn from `HDVAE.noise`.

    Source: Paulus et al. 2021, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator".

    Args:
        tau: of the relaxed samples, > 0.
        conditional: R draws for each node, from `conditional_noise`, independent of the sample's own noise.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        scores = conditional_scores(log_pi.detach(), sample, conditional[node])
        # The Gumbels are held fixed: the perturbed logits move with log π as those of the relaxed sample do.
        return ((log_pi + (scores - log_pi.detach())) / _at(tau, node)).softmax(-1).mean(0)

    return _hard_forward(surrogate, tau)


def reinmax(tau: Temperature) -> Sampler:
    """The hard sample forward, Heun's second-order rule backward, from `HDVAE.noise`.

    At τ = 1 the gradient is exact for quadratic functions of one variable.

    Source: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond", algorithm 2.

    Args:
        tau: of the tempered law that the sample is averaged with, > 0.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        # log (D + softmax(θ/τ)), unnormalised: the ½ goes with the softmax. In log space, as peaked laws underflow.
        log_middle = torch.logaddexp(sample.log(), (log_pi / _at(tau, node)).log_softmax(-1))
        middle = ((log_middle - log_pi).detach() + log_pi).softmax(-1)
        return 2 * middle - log_pi.softmax(-1) / 2

    return _hard_forward(surrogate, tau)


def conditional_noise(model: HDVAE, sources: Sequence[NoiseSource]) -> Noise:
    """R draws of `HDVAE.noise` for `gumbel_rao`, stacked: (R, B, N, K) for each categorical node.

    Args:
        model: whose nodes need noise.
        sources: one for each of the R ≥ 1 draws.
    """
    draws = [model.noise(source) for source in sources]
    return {node: torch.stack([draw[node] for draw in draws]) for node in model.nodes}


def conditional_scores(log_pi: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
    """Perturbed logits log π + G given that the largest one is the sample's, (R, B, N, K).

    With unit exponentials E, the perturbed logit of the sample is −log E_i, the largest of all, and the others
    are −log(E_i + E_k/π_k) (Maddison et al. 2014, "A* sampling"). E = exp(−g) is never formed: π may underflow.

    Args:
        log_pi: normalised, (B, N, K).
        sample: one-hot, (B, N, K).
        noise: independent standard Gumbel noise g, (R, B, N, K).
    """
    log_first = -(noise * sample).sum(-1, keepdim=True)
    others = -torch.logaddexp(log_first, -noise - log_pi)
    return torch.where(sample.bool(), -log_first, others)


def log_q(terms: Terms) -> Tensor:
    """Log q(z|x) of the hard samples, nats per image: (B,), float64. For `rloo` and `vimco`.

    A normal sample has its gradient through its path, in the value that it goes into: its own term has none here.
    """
    each = [layer.q.log_prob(layer.draw.hard).double() for layer in terms.layers]
    score = [isinstance(layer.q, Categorical) for layer in terms.layers]
    return torch.stack([term if scored else term.detach() for term, scored in zip(each, score, strict=True)]).sum(0)


def rloo(value_SB: Tensor, log_q_SB: Tensor) -> Tensor:
    """The mean of values under q, with an unbiased gradient: each sample's baseline is the mean of the others.

    Source: Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline for free!".

    Args:
        value_SB: of S independent samples of each image, nats, such as `expected_log_weight`.
        log_q_SB: of the same samples, from `log_q`.

    Returns:
        A scalar, nats.

    Raises:
        ValueError: there are fewer than two samples, or the shapes differ.
    """
    samples = _samples(value_SB, log_q_SB)
    # f − (mean of the others) = (f − mean of all) · S/(S − 1).
    signal = (value_SB - value_SB.mean(0)).detach() * (samples / (samples - 1))
    return value_SB.mean() + _gradient_only(signal * log_q_SB).mean()


def vimco(log_weight_SB: Tensor, log_q_SB: Tensor) -> Tensor:
    """L_S, the importance-weighted bound, with an unbiased gradient.

    Each sample's baseline is the bound with the geometric mean of the other weights in place of its own.

    Source: Mnih & Rezende 2016, "Variational inference for Monte Carlo objectives".

    Args:
        log_weight_SB: log p(x, z)/q(z|x) of S independent samples of each image, nats, from `log_weight`.
        log_q_SB: of the same samples, from `log_q`.

    Returns:
        A scalar, nats.

    Raises:
        ValueError: there are fewer than two samples, or the shapes differ.
    """
    samples = _samples(log_weight_SB, log_q_SB)
    bound = log_weight_SB.logsumexp(0) - math.log(samples)
    signal = (bound - _bounds_without(log_weight_SB)).detach()
    return bound.mean() + _gradient_only((signal * log_q_SB).sum(0)).mean()


def _bounds_without(log_weight_SB: Tensor) -> Tensor:
    """L_{−s} of `vimco` for each sample s: (S, B)."""
    samples = len(log_weight_SB)
    others = (log_weight_SB.sum(0) - log_weight_SB) / (samples - 1)
    own = torch.eye(samples, dtype=torch.bool, device=log_weight_SB.device).unsqueeze(-1)
    return torch.where(own, others, log_weight_SB).logsumexp(1) - math.log(samples)


def _samples(value_SB: Tensor, log_q_SB: Tensor) -> int:
    """S, checked."""
    if value_SB.dim() != 2 or value_SB.shape != log_q_SB.shape:
        raise ValueError(f"expected two tensors (S, B), got {tuple(value_SB.shape)} and {tuple(log_q_SB.shape)}")
    if len(value_SB) < 2:
        raise ValueError("a baseline from the other samples needs at least 2 samples of each image")
    return len(value_SB)


def _at(tau: Temperature, node: Node) -> float | Tensor:
    return tau[node] if isinstance(tau, Mapping) else tau


def _gradient_only(value: Tensor) -> Tensor:
    """Exactly 0, with the gradient of `value`."""
    return value - value.detach()


def _hard_forward(surrogate: Surrogate, tau: Temperature) -> Sampler:
    """The sampler whose values are those of `hard`, to the bit, and whose gradient is that of `surrogate`."""

    def sampler(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
        if not isinstance(layer, MemoryLayer):
            return layer.relax(law, noise, _at(tau, node))
        assert isinstance(law, Categorical)
        chosen, log_pi = layer.harden(law, noise), law.joint()
        sample = one_hot(chosen.hard, layer.classes).to(log_pi.dtype)
        soft = sample + _gradient_only(surrogate(node, log_pi, noise, sample))
        # The product with a one-hot vector may be rounded (reduced-precision multiplication): the value is the
        # slot itself. The gradient of the memory comes through the product alone, or it would count twice.
        read = chosen.read.detach() + _gradient_only(layer.read(soft))
        return Draw(hard=chosen.hard, read=read, soft=soft)

    return sampler
