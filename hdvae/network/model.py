"""The HD-VAE: one network code for all wirings, both kinds of latent variables, any depth.

Design, in one place:

- The bottom-up pass makes features h_i, the top-down pass features d_i (`hdvae.network.wiring` says from what). The
  prior at the top is read from a learned d_L, so every level has the same parts.
- `encode` is what does not depend on the noise; it is computed once for any number of samples.
- How a sample is drawn is an argument, a `Sampler`: relaxed at τ, hard on the same noise, or hard on cheaper
  noise. The chains of the theory are this one code with different samplers.
- The model returns terms; what is made of them is the objectives' business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from hdvae.experiment.experiment import ModelConfig
from hdvae.latents.distributions import Distribution, Draw
from hdvae.latents.layers import MemoryLayer, NormalLayer, StochasticLayer, stochastic_layer
from hdvae.network.blocks import trunk
from hdvae.network.wiring import WIRINGS, Node
from hdvae.randomness.noise import NoiseSource

Noise = Mapping[Node, Tensor]
Sampler = Callable[[Node, StochasticLayer, Distribution, Tensor], Draw]
Temperature = float | Mapping[Node, Tensor]
"""τ of all layers, or of each."""


def relaxed(tau: Temperature) -> Sampler:
    """Relaxed samples at temperature τ > 0, from `HDVAE.noise`."""
    if isinstance(tau, Mapping):
        return lambda node, layer, law, noise: layer.relax(law, noise, tau[node])
    return lambda node, layer, law, noise: layer.relax(law, noise, tau)


def hard(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
    """Hard samples on the noise of the relaxed ones, from `HDVAE.noise`."""
    return layer.harden(law, noise)


def independent(node: Node, layer: StochasticLayer, law: Distribution, noise: Tensor) -> Draw:
    """Hard samples on noise of their own, from `HDVAE.hard_noise`."""
    return layer.sample(law, noise)


@dataclass(frozen=True)
class LayerTerms:
    """What one group of latent variables contributes to the objectives.

    Attributes:
        node: which variables.
        q: their posterior given the contexts of the chain that was run.
        p: their prior given the contexts of the chain that was run.
        draw: the sample.
        finite_kl: whether E[log q/p] is the finite sum KL(q ‖ p), because p's context was sampled first.
    """

    node: Node
    q: Distribution
    p: Distribution
    draw: Draw
    finite_kl: bool

    def log_ratio(self) -> Tensor:
        """Log q(H(z̃)|·) − log p(H(z̃)|·), (B,), the hard terms of eq. 14."""
        return self.q.log_prob(self.draw.hard) - self.p.log_prob(self.draw.hard)

    def expected_log_ratio(self) -> Tensor:
        """The same expectation with the noise of this layer's own sample removed where that is exact, (B,).

        The KL where `finite_kl`; elsewhere −entropy(q) − log p(H(z̃)|·), since only E[log q] is a finite sum.
        """
        if self.finite_kl:
            return self.q.kl(self.p)
        return -self.q.entropy() - self.p.log_prob(self.draw.hard)


@dataclass(frozen=True)
class Terms:
    """Everything that the objectives need of one sample for each image.

    Attributes:
        log_px: log p(x|z_dec), nats per image, (B,).
        layers: one for each node of the wiring, in the order in which q samples them.
    """

    log_px: Tensor
    layers: Sequence[LayerTerms]


class Level(nn.Module):
    """The parts of one level i: its connections and its groups of variables."""

    def __init__(self, config: ModelConfig, image: tuple[int, int], level: int) -> None:
        super().__init__()
        build, wiring = trunk(config, image), WIRINGS[config.wiring]
        top = level == len(config.layers)
        self.nodes = [node for node in wiring.nodes(len(config.layers)) if node.level == level]
        self.layers = nn.ModuleDict()
        self.posteriors, self.priors = nn.ModuleDict(), nn.ModuleDict()
        for node in self.nodes:
            layer = stochastic_layer(config.layers[level - 1], config)
            size = layer.variables * layer.parameters_per_variable
            self.layers[node.direction] = layer
            self.posteriors[node.direction] = build.posterior(level, size)
            self.priors[node.direction] = build.prior(level, size)
        read = sum(self.layer(node).read_size for node in self.nodes)
        self.expand_down = build.expand_down(level, read)
        self.down = build.down(level - 1)
        self.up = build.up(level)
        if any(node.direction == "up" for node in self.nodes) and not top:
            self.expand_up = build.expand_up(level, self.layer(Node(level, "up")).read_size)
        if any(node.direction == "down" for node in self.nodes) and not top:
            self.merge = build.merge(level)

    def layer(self, node: Node) -> MemoryLayer | NormalLayer:
        """The stochastic layer of a node of this level."""
        layer = self.layers[node.direction]
        assert isinstance(layer, MemoryLayer | NormalLayer)
        return layer

    def posterior(self, node: Node, features: Tensor) -> Distribution:
        """Q of a node, from features of this level."""
        return self.layer(node).distribution(self.posteriors[node.direction](features))

    def prior(self, node: Node, features: Tensor) -> Distribution:
        """P of a node, from top-down features of this level."""
        return self.layer(node).distribution(self.priors[node.direction](features))


@dataclass(frozen=True)
class Posterior:
    """q and a sample of one node; what a chain has inferred."""

    q: Distribution
    draw: Draw


class HDVAE(nn.Module):
    """A hierarchical VAE with categorical (memory) or normal latent variables.

    Args:
        config: the network.
        image: height and width of the images.
    """

    def __init__(self, config: ModelConfig, image: tuple[int, int]) -> None:
        super().__init__()
        self.config, self.image = config, image
        self.wiring = WIRINGS[config.wiring]
        depth = len(config.layers)
        self.nodes = self.wiring.nodes(depth)
        self.levels = nn.ModuleList([Level(config, image, i) for i in range(1, depth + 1)])
        build = trunk(config, image)
        self.top = nn.Parameter(0.1 * torch.randn(build.feature_shape(depth)))
        self.logits = build.logits()

    def level(self, i: int) -> Level:
        """The parts of level i, 1 ≤ i ≤ L."""
        level = self.levels[i - 1]
        assert isinstance(level, Level)
        return level

    def layer(self, node: Node) -> MemoryLayer | NormalLayer:
        """The stochastic layer of a node."""
        return self.level(node.level).layer(node)

    def name(self, node: Node) -> str:
        """What a node is called in metrics."""
        return self.wiring.name(node, len(self.levels))

    def memory_values(self) -> list[nn.Parameter]:
        """The values of all memories, which have a learning rate of their own."""
        layers = [self.layer(node) for node in self.nodes]
        return [layer.values_NKD for layer in layers if isinstance(layer, MemoryLayer)]

    def noise(self, source: NoiseSource) -> Noise:
        """Noise for one sample of every node, for the samplers `relaxed` and `hard`."""
        return {node: self.layer(node).noise(source) for node in self.nodes}

    def hard_noise(self, source: NoiseSource) -> Noise:
        """Noise for one sample of every node, for the sampler `independent`."""
        return {node: self.layer(node).hard_noise(source) for node in self.nodes}

    def encode(self, x: Tensor) -> list[Tensor]:
        """The bottom-up features that do not depend on the noise.

        Args:
            x: images of 0 and 1, (B, H, W).

        Returns:
            h_1 … h_L where nothing is sampled on the way up, else h_1 alone.
        """
        features = [self.level(1).up(2 * x - 1)]
        if not self.wiring.samples_up:
            for i in range(2, len(self.levels) + 1):
                features.append(self.level(i).up(features[-1]))
        return features

    def forward(self, x: Tensor, noise: Noise, sampler: Sampler) -> Terms:
        """One sample of all latent variables under q for each image, and its terms.

        Args:
            x: images of 0 and 1, (B, H, W).
            noise: as `sampler` needs it.
            sampler: the chain: `relaxed(τ)`, `hard` or `independent`.
        """
        return self.terms(x, self.encode(x), noise, sampler)

    def terms(self, x: Tensor, encoded: Sequence[Tensor], noise: Noise, sampler: Sampler) -> Terms:
        """`forward` for images whose `encode` is at hand (repeated where an image is sampled often)."""
        features, inferred = self._climb(encoded, noise, sampler)

        def infer(node: Node, p: Distribution, d: Tensor) -> Draw:
            if node not in inferred:
                level = self.level(node.level)
                h = features[node.level - 1]
                merged = h if node.level == len(self.levels) else level.merge(torch.cat([h, d], 1))
                q = level.posterior(node, merged)
                inferred[node] = Posterior(q, sampler(node, level.layer(node), q, noise[node]))
            return inferred[node].draw

        priors, logits = self._descend(len(x), infer)
        return self._collect(x, inferred, priors, logits)

    def generate(
        self, noise: Noise, sampler: Sampler, kept: Mapping[Node, Draw] | None = None
    ) -> tuple[dict[Node, Draw], Tensor]:
        """Samples of the generative model: the draw of every node and the logits of the pixels, (B, H, W).

        Args:
            noise: for every node.
            sampler: `hard` or `independent`.
            kept: draws of some nodes that are taken as they are.
        """
        draws: dict[Node, Draw] = dict(kept or {})

        def from_prior(node: Node, p: Distribution, d: Tensor) -> Draw:
            if node not in draws:
                draws[node] = sampler(node, self.layer(node), p, noise[node])
            return draws[node]

        count = next(iter(noise.values())).shape[0]
        _, logits = self._descend(count, from_prior)
        return draws, logits

    def score(self, draws: Mapping[Node, Draw]) -> tuple[dict[Node, Distribution], Tensor]:
        """The priors p(z_i|z_{>i}) and the logits of the pixels (B, H, W) for given latent variables."""
        count = next(iter(draws.values())).hard.shape[0]
        return self._descend(count, lambda node, p, d: draws[node])

    def coupled(self, x: Tensor, terms: Terms) -> Terms:
        """The coupled chain that belongs to relaxed terms: q as it was, p and the decoder given H(z̃).

        Its q is what the sample was really drawn from, so E[exp(log weight)] = p(x) for every wiring.
        """
        hardened = {layer.node: self.layer(layer.node).at(layer.draw.hard) for layer in terms.layers}
        priors, logits = self.score(hardened)
        layers = [replace(layer, p=priors[layer.node], draw=hardened[layer.node]) for layer in terms.layers]
        return Terms(bernoulli_log_prob(x, logits), layers)

    def _climb(
        self, encoded: Sequence[Tensor], noise: Noise, sampler: Sampler
    ) -> tuple[list[Tensor], dict[Node, Posterior]]:
        """The bottom-up pass: all features h_i, and what is sampled on the way."""
        features, inferred = list(encoded), dict[Node, Posterior]()
        for node in self.nodes:
            if node.direction == "down":
                break
            level, h = self.level(node.level), features[-1]
            q = level.posterior(node, h)
            inferred[node] = Posterior(q, sampler(node, level.layer(node), q, noise[node]))
            if node.level < len(self.levels):
                read = level.expand_up(inferred[node].draw.read)
                below = h + read if self.wiring.skip_up else read
                features.append(self.level(node.level + 1).up(below))
        return features, inferred

    def _descend(
        self, count: int, choose: Callable[[Node, Distribution, Tensor], Draw]
    ) -> tuple[dict[Node, Distribution], Tensor]:
        """The top-down pass: the priors and the decoder's logits, with the variables that `choose` gives."""
        d = self.top.expand(count, *self.top.shape)
        priors: dict[Node, Distribution] = {}
        for i in range(len(self.levels), 0, -1):
            level = self.level(i)
            reads = []
            for node in level.nodes:
                priors[node] = level.prior(node, d)
                reads.append(choose(node, priors[node], d).read)
            read = level.expand_down(torch.cat(reads, 1))
            d = level.down(d + read if self.wiring.skip_down else read)
        return priors, self.logits(d)

    def _collect(
        self,
        x: Tensor,
        inferred: Mapping[Node, Posterior],
        priors: Mapping[Node, Distribution],
        logits: Tensor,
    ) -> Terms:
        depth = len(self.levels)
        layers = [
            LayerTerms(
                node=node,
                q=inferred[node].q,
                p=priors[node],
                draw=inferred[node].draw,
                finite_kl=self.wiring.prior_context_first(node, depth),
            )
            for node in self.nodes
        ]
        return Terms(bernoulli_log_prob(x, logits), layers)


@contextmanager
def evaluating(model: HDVAE) -> Iterator[None]:
    """Without dropout and gradients; the model's mode is left as it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Log p(x|logits) of binary images, summed over the pixels: (B, H, W), (B, H, W) → (B,), nats."""
    return (x * logits - softplus(logits)).flatten(1).sum(1)
