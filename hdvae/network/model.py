"""The HD-VAE: one network class for all wirings, both kinds of latent variables, and any depth.

Design:

- The bottom-up pass computes features h_i, the top-down pass features d_i; `hdvae.network.wiring` lists their inputs.
  The top prior is computed from a learned d_L, so all levels have the same parts.
- `encode` computes the features that do not depend on the noise, once for any number of samples.
- A `Sampler` argument decides how samples are drawn (`hdvae.network.samplers`): relaxed at τ, hard on the same noise,
  or hard on cheaper noise.
- The model returns `Terms`; `hdvae.objectives` and `hdvae.evaluation` turn them into numbers.

Shape letters: B batch, H and W height and width of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from hdvae.experiment.experiment import ModelConfig
from hdvae.latents.distributions import Distribution, Draw
from hdvae.latents.layers import MemoryLayer, NormalLayer, stochastic_layer
from hdvae.network.blocks import trunk
from hdvae.network.dropout import Dropout
from hdvae.network.precision import Part
from hdvae.network.samplers import Noise, Sampler
from hdvae.network.terms import LayerTerms, Terms, bernoulli_log_prob
from hdvae.network.wiring import WIRINGS, Node
from hdvae.randomness.noise import NoiseSource


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
        """The stochastic layer of a node at this level."""
        layer = self.layers[node.direction]
        assert isinstance(layer, MemoryLayer | NormalLayer)
        return layer

    def posterior(self, node: Node, features: Tensor) -> Distribution:
        """The posterior q of a node, from features of this level."""
        return self.layer(node).distribution(self.posteriors[node.direction](features))

    def prior(self, node: Node, features: Tensor) -> Distribution:
        """The prior p of a node, from top-down features of this level."""
        return self.layer(node).distribution(self.priors[node.direction](features))


@dataclass(frozen=True)
class Posterior:
    """The posterior q of one node, and the sample that was drawn from it."""

    q: Distribution
    draw: Draw


class HDVAE(nn.Module):
    """A hierarchical VAE with categorical (memory) or normal latent variables.

    Args:
        config: the settings of the network.
        image: height and width of the images, in pixels.
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
        self.parts = [module for module in self.modules() if isinstance(module, Part)]
        self.dropouts = [module for module in self.modules() if isinstance(module, Dropout)]

    def level(self, i: int) -> Level:
        """The parts of level i, 1 ≤ i ≤ L."""
        level = self.levels[i - 1]
        assert isinstance(level, Level)
        return level

    def layer(self, node: Node) -> MemoryLayer | NormalLayer:
        """The stochastic layer of a node."""
        return self.level(node.level).layer(node)

    def name(self, node: Node) -> str:
        """The name of a node in metrics."""
        return self.wiring.name(node, len(self.levels))

    def memory_values(self) -> list[nn.Parameter]:
        """The values of all memories, which have their own learning rate."""
        layers = [self.layer(node) for node in self.nodes]
        return [layer.values_NKD for layer in layers if isinstance(layer, MemoryLayer)]

    def noise(self, source: NoiseSource) -> Noise:
        """The noise of one sample of every node, for the samplers `relaxed` and `hard`."""
        return {node: self.layer(node).noise(source) for node in self.nodes}

    def hard_noise(self, source: NoiseSource) -> Noise:
        """The noise of one sample of every node, for the sampler `independent`."""
        return {node: self.layer(node).hard_noise(source) for node in self.nodes}

    def encode(self, x: Tensor) -> list[Tensor]:
        """The bottom-up features that do not depend on the noise.

        Args:
            x: images of 0 and 1, (B, H, W).

        Returns:
            h_1 … h_L if no variable is sampled in the bottom-up pass, else h_1 only.
        """
        features = [self.level(1).up(2 * x - 1)]
        if not self.wiring.samples_up:
            for i in range(2, len(self.levels) + 1):
                features.append(self.level(i).up(features[-1]))
        return features

    def forward(self, x: Tensor, noise: Noise, sampler: Sampler) -> Terms:
        """The terms of one sample of all latent variables under q for each image.

        Args:
            x: images of 0 and 1, (B, H, W).
            noise: the noise that the sampler uses.
            sampler: `relaxed(τ)`, `hard` or `independent`.
        """
        return self.terms(x, self.encode(x), noise, sampler)

    def terms(self, x: Tensor, encoded: Sequence[Tensor], noise: Noise, sampler: Sampler) -> Terms:
        """`forward` with the result of `encode` as an argument, so that several samples share it."""
        features, inferred = self._bottom_up(encoded, noise, sampler)

        def infer(node: Node, p: Distribution, d: Tensor) -> Draw:
            if node not in inferred:
                level = self.level(node.level)
                h = features[node.level - 1]
                merged = h if node.level == len(self.levels) else level.merge(torch.cat([h, d], 1))
                q = level.posterior(node, merged)
                inferred[node] = Posterior(q, sampler(node, level.layer(node), q, noise[node]))
            return inferred[node].draw

        priors, logits = self._top_down(len(x), infer)
        return self._collect(x, inferred, priors, logits)

    def terms_of_samples(
        self, x: Tensor, encoded: Sequence[Tensor], noises: Sequence[Noise], sampler: Sampler
    ) -> Terms:
        """The terms of S samples of each image, for a batch of S · B: S copies of the batch, one after another.

        Args:
            x: images of 0 and 1, (B, H, W).
            encoded: the result of `encode` for these images.
            noises: the noise of each of the S samples.
            sampler: `relaxed(τ)`, `hard` or `independent`.
        """
        samples = len(noises)
        noise = {node: torch.cat([one[node] for one in noises]) for node in self.nodes}
        return self.terms(_tiled(x, samples), [_tiled(h, samples) for h in encoded], noise, sampler)

    def generate(
        self, noise: Noise, sampler: Sampler, kept: Mapping[Node, Draw] | None = None
    ) -> tuple[dict[Node, Draw], Tensor]:
        """Samples of the generative model: the draw of every node, and the logits of the pixels (B, H, W).

        Args:
            noise: the noise of every node.
            sampler: `hard` or `independent`.
            kept: draws of some nodes, which are used instead of new ones.
        """
        draws: dict[Node, Draw] = dict(kept or {})

        def from_prior(node: Node, p: Distribution, d: Tensor) -> Draw:
            if node not in draws:
                draws[node] = sampler(node, self.layer(node), p, noise[node])
            return draws[node]

        count = next(iter(noise.values())).shape[0]
        _, logits = self._top_down(count, from_prior)
        return draws, logits

    def score(self, draws: Mapping[Node, Draw]) -> tuple[dict[Node, Distribution], Tensor]:
        """The priors p(z_i|z_{>i}) and the logits of the pixels (B, H, W) for given latent variables."""
        count = next(iter(draws.values())).hard.shape[0]
        return self._top_down(count, lambda node, p, d: draws[node])

    def coupled(self, x: Tensor, terms: Terms) -> Terms:
        """The terms of the coupled chain: q of the relaxed chain, but p and the decoder given H(z̃).

        The sample was drawn from this q, so E[exp(log weight)] = p(x) for every wiring.
        """
        hardened = {layer.node: self.layer(layer.node).at(layer.draw.hard) for layer in terms.layers}
        priors, logits = self.score(hardened)
        layers = [replace(layer, p=priors[layer.node], draw=hardened[layer.node]) for layer in terms.layers]
        return Terms(bernoulli_log_prob(x, logits), layers)

    def _bottom_up(
        self, encoded: Sequence[Tensor], noise: Noise, sampler: Sampler
    ) -> tuple[list[Tensor], dict[Node, Posterior]]:
        """The bottom-up pass: all features h_i, and the posteriors and samples of the nodes in this direction."""
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

    def _top_down(
        self, count: int, choose: Callable[[Node, Distribution, Tensor], Draw]
    ) -> tuple[dict[Node, Distribution], Tensor]:
        """The top-down pass: all priors, and the logits of the pixels.

        Args:
            count: B, the number of images.
            choose: (node, prior, top-down features) → the draw of the node.
        """
        d = self.top.expand(count, *self.top.shape)
        priors: dict[Node, Distribution] = {}
        for i in range(len(self.levels), 0, -1):
            level = self.level(i)
            reads = []
            for node in level.nodes:
                priors[node] = level.prior(node, d)
                reads.append(choose(node, priors[node], d).read)
            read = level.expand_down(torch.cat(reads, 1))
            d = level.down(read + d if self.wiring.skip_down else read)  # the sum is laid out as `read` is
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
    """Turn dropout and gradients off inside the context, and restore the mode of the model at its end."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _tiled(batch: Tensor, times: int) -> Tensor:
    """Copies of a batch, one after another: (B, …) → (times · B, …)."""
    return batch.repeat(times, *[1] * (batch.dim() - 1))
