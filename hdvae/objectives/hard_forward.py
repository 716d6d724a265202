"""Gradient estimators that draw hard samples and differentiate a smooth surrogate.

Forward, each of these samplers is the hard chain, to the bit, so the objective has no relaxation bias. Backward, the
sample has the gradient of a smooth function, so the gradient is biased. Normal variables need no surrogate: the
samplers return their reparametrised sample.

Shape letters: B batch, N variables, K classes, R conditional draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hdvae.latents.distributions import Categorical, Distribution, Draw
from hdvae.latents.layers import MemoryLayer, StochasticLayer
from hdvae.network.model import HDVAE
from hdvae.network.samplers import Noise, Sampler, Temperature
from hdvae.network.wiring import Node
from hdvae.objectives.score_function import gradient_only
from hdvae.randomness.noise import NoiseSource

Surrogate = Callable[[Node, Tensor, Tensor, Tensor], Tensor]
"""(node, log π, noise, one-hot sample), tensors (B, N, K), → the smooth function whose gradient is used, (B, N, K)."""


def straight_through(tau: Temperature) -> Sampler:
    """Sampler with the hard sample forward and the relaxed sample of the same noise backward. Uses `HDVAE.noise`.

    Source: Jang et al. 2016, "Categorical reparameterization with Gumbel-softmax", section 2.2.

    Args:
        tau: temperature of the relaxed sample, > 0.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        return ((log_pi + noise) / _at(tau, node)).softmax(-1)

    return _hard_forward(surrogate, tau)


def gumbel_rao(tau: Temperature, conditional: Noise) -> Sampler:
    """`straight_through` with the gradient averaged over R noise draws conditional on the hard sample.

    The expected gradient is that of `straight_through`; its variance is smaller. Uses `HDVAE.noise`.

    Source: Paulus et al. 2021, "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator".

    Args:
        tau: temperature of the relaxed samples, > 0.
        conditional: R draws for each node from `conditional_noise`, independent of the noise of the sample.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        scores = conditional_scores(log_pi.detach(), sample, conditional[node])
        # The Gumbel noise is held fixed, so the perturbed logits have the gradient of log π, as in a relaxed sample.
        return ((log_pi + (scores - log_pi.detach())) / _at(tau, node)).softmax(-1).mean(0)

    return _hard_forward(surrogate, tau)


def reinmax(tau: Temperature) -> Sampler:
    """Sampler with the hard sample forward and Heun's second-order rule backward. Uses `HDVAE.noise`.

    At τ = 1 the gradient is exact for quadratic functions of one variable.

    Source: Liu et al. 2023, "Bridging discrete and backpropagation: straight-through and beyond", algorithm 2.

    Args:
        tau: temperature of the distribution that is averaged with the sample, > 0.
    """

    def surrogate(node: Node, log_pi: Tensor, noise: Tensor, sample: Tensor) -> Tensor:
        # log (D + softmax(θ/τ)) without the factor ½, which the softmax cancels; in log space, to avoid underflow.
        log_middle = torch.logaddexp(sample.log(), (log_pi / _at(tau, node)).log_softmax(-1))
        middle = ((log_middle - log_pi).detach() + log_pi).softmax(-1)
        return 2 * middle - log_pi.softmax(-1) / 2

    return _hard_forward(surrogate, tau)


def conditional_noise(model: HDVAE, sources: Sequence[NoiseSource]) -> Noise:
    """R stacked draws of `HDVAE.noise` for `gumbel_rao`: (R, B, N, K) for each categorical node.

    Args:
        model: the model whose nodes need noise.
        sources: one noise source for each of the R ≥ 1 draws.
    """
    draws = [model.noise(source) for source in sources]
    return {node: torch.stack([draw[node] for draw in draws]) for node in model.nodes}


def conditional_scores(log_pi: Tensor, sample: Tensor, noise: Tensor) -> Tensor:
    """Perturbed logits log π + G, conditional on the class of the sample having the largest one: (R, B, N, K).

    With unit exponentials E, the perturbed logit of the sampled class i is −log E_i, the largest of all, and those of
    the others are −log(E_i + E_k/π_k) (Maddison et al. 2014, "A* sampling"). The code works with g = −log E, since
    E_k/π_k may overflow.

    Args:
        log_pi: normalised log-probabilities, (B, N, K).
        sample: one-hot samples, (B, N, K).
        noise: independent standard Gumbel noise g, (R, B, N, K).
    """
    log_first = -(noise * sample).sum(-1, keepdim=True)
    others = -torch.logaddexp(log_first, -noise - log_pi)
    return torch.where(sample.bool(), -log_first, others)


def _at(tau: Temperature, node: Node) -> float | Tensor:
    return tau[node] if isinstance(tau, Mapping) else tau


def _hard_forward(surrogate: Surrogate, tau: Temperature) -> Sampler:
    """The sampler with the values of `hard`, to the bit, and the gradient of `surrogate`."""

    def sampler(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
        if not isinstance(layer, MemoryLayer):
            return layer.relax(law, noise, _at(tau, node))
        assert isinstance(law, Categorical)
        chosen, log_pi = layer.harden(law, noise), law.joint()
        sample = one_hot(chosen.hard, layer.classes).to(log_pi.dtype)
        soft = sample + gradient_only(surrogate(node, log_pi, noise, sample))
        # A product with a one-hot vector may be rounded (reduced-precision multiplication), so the value is taken from
        # the slot itself. The gradient of the memory flows through the product only; else it would count twice.
        read = chosen.read.detach() + gradient_only(layer.read(soft))
        return Draw(hard=chosen.hard, read=read, soft=soft)

    return sampler
