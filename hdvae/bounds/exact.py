"""Exact values of small models, by enumeration of all configurations of their latent variables.

It is meant for models with a handful of variables, as a reference for sampled quantities and gradient estimators.
Everything is differentiable, so `backward` gives the exact gradient of a bound.

Shape letters: C configurations, N variables of a node, S samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hdvae.latents.distributions import Distribution, Draw
from hdvae.latents.layers import MemoryLayer, StochasticLayer
from hdvae.network.model import HDVAE
from hdvae.network.terms import Terms, bernoulli_log_prob
from hdvae.network.wiring import Node


def given(node: Node, layer: StochasticLayer, law: Distribution, hard: Tensor) -> Draw:
    """The sampler that takes the hard values themselves as noise."""
    return layer.at(hard)


def configurations(model: HDVAE) -> dict[Node, Tensor]:
    """All configurations of the latent variables, one per row: (C, N) for each node.

    Raises:
        TypeError: a latent variable is not categorical.
    """
    layers = {node: model.layer(node) for node in model.nodes}
    choices: list[range] = []
    for layer in layers.values():
        if not isinstance(layer, MemoryLayer):
            raise TypeError("only categorical variables can be enumerated")
        choices += [range(layer.classes)] * layer.variables
    rows = torch.tensor(list(itertools.product(*choices)))
    columns = torch.split(rows, [layer.variables for layer in layers.values()], 1)
    return dict(zip(model.nodes, columns, strict=True))


@dataclass(frozen=True)
class Exact:
    """The exact values of one image. All tensors are (C,), with one entry per configuration; logarithms are in nats.

    Attributes:
        terms: the terms of the model with the configurations as samples.
        log_q: log q(z_i | contexts, x) of each node.
        log_p: log p(z_i | z_{>i}) of each node.
    """

    terms: Terms
    log_q: Mapping[Node, Tensor]
    log_p: Mapping[Node, Tensor]

    @property
    def log_posterior(self) -> Tensor:
        """Log q(z|x)."""
        return torch.stack(list(self.log_q.values())).sum(0)

    @property
    def posterior(self) -> Tensor:
        """q(z|x)."""
        return self.log_posterior.exp()

    @property
    def prior(self) -> Tensor:
        """p(z)."""
        return torch.stack(list(self.log_p.values())).sum(0).exp()

    @property
    def log_weight(self) -> Tensor:
        """Log p(x, z)/q(z|x)."""
        return self.terms.log_px + torch.stack(list(self.log_p.values())).sum(0) - self.log_posterior

    @property
    def evidence(self) -> float:
        """Log p(x)."""
        return (self.terms.log_px + self.prior.log()).logsumexp(0).item()

    @property
    def elbo(self) -> float:
        """E_q log p(x, z)/q(z|x)."""
        return self.expectation(self.log_weight)

    @property
    def kl(self) -> dict[Node, float]:
        """E_q log q/p of each node."""
        return {node: self.expectation(self.log_q[node] - self.log_p[node]) for node in self.log_q}

    def expectation(self, value: Tensor) -> float:
        """E_q of a function of the configuration."""
        return (self.posterior * value).sum().item()

    def bound(self, samples: int) -> Tensor:
        """The importance-weighted bound L_S with S samples, differentiable; L_1 is the ELBO. The cost is O(C^S)."""
        chosen = torch.tensor(list(itertools.product(range(len(self.log_posterior)), repeat=samples)))
        probability = self.log_posterior[chosen].sum(1).exp()
        return (probability * (self.log_weight[chosen].logsumexp(1) - math.log(samples))).sum()


def enumerate_exactly(model: HDVAE, x: Tensor) -> Exact:
    """Enumerate all configurations for one image (H, W), with the inference and `score` of the model."""
    values = configurations(model)
    count = len(next(iter(values.values())))
    terms = model(x.expand(count, *x.shape), values, given)
    log_q = {layer.node: layer.q.log_prob(values[layer.node]) for layer in terms.layers}
    priors, logits = model.score({node: model.layer(node).at(hard) for node, hard in values.items()})
    log_p = {node: priors[node].log_prob(values[node]) for node in model.nodes}
    return Exact(Terms(bernoulli_log_prob(x, logits), terms.layers), log_q, log_p)
