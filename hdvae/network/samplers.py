"""Samplers: how a sample of each layer is drawn from its distribution and noise.

The hard, the relaxed and the coupled chain of the theory are the same network with different samplers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from hdvae.latents.distributions import Distribution, Draw
from hdvae.latents.layers import StochasticLayer
from hdvae.network.wiring import Node

Noise = Mapping[Node, Tensor]
"""The noise of one sample, by node."""
Sampler = Callable[[Node, StochasticLayer, Distribution, Tensor], Draw]
"""(node, layer, distribution, noise) → a sample of the layer."""
Temperature = float | Mapping[Node, Tensor]
"""One τ for all layers, or the τ of each layer (0-dim tensors)."""


def relaxed(tau: Temperature) -> Sampler:
    """The sampler of relaxed samples at temperature τ > 0. Uses `HDVAE.noise`."""
    if isinstance(tau, Mapping):
        return lambda node, layer, law, noise: layer.relax(law, noise, tau[node])
    return lambda node, layer, law, noise: layer.relax(law, noise, tau)


def hard(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
    """The sampler of hard samples on the noise of the relaxed ones. Uses `HDVAE.noise`."""
    return layer.harden(law, noise)


def independent(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
    """The sampler of hard samples on noise of their own, which is cheaper. Uses `HDVAE.hard_noise`."""
    return layer.sample(law, noise)
