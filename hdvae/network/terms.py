"""The terms that the model returns for one sample of each image; objectives and evaluation turn them into numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import softplus

from hdvae.latents.distributions import Distribution, Draw
from hdvae.network.wiring import Node


@dataclass(frozen=True)
class LayerTerms:
    """The contribution of one group of latent variables to the objectives.

    Attributes:
        node: the group of variables.
        q: their posterior, given the contexts of the chain.
        p: their prior, given the contexts of the chain.
        draw: their sample.
        finite_kl: whether E[log q/p] is the finite sum KL(q ‖ p), because the context of p is sampled first.
    """

    node: Node
    q: Distribution
    p: Distribution
    draw: Draw
    finite_kl: bool

    def log_ratio(self) -> Tensor:
        """Log q(H(z̃)|·) − log p(H(z̃)|·), (B,), nats: the hard terms of eq. 14."""
        return self.q.log_prob(self.draw.hard) - self.p.log_prob(self.draw.hard)

    def expected_log_ratio(self) -> Tensor:
        """`log_ratio` with the expectation over this layer's own sample taken exactly where possible, (B,), nats.

        This is the KL if `finite_kl`; otherwise −entropy(q) − log p(H(z̃)|·), since only E[log q] is a finite sum.
        """
        if self.finite_kl:
            return self.q.kl(self.p)
        return -self.q.entropy() - self.p.log_prob(self.draw.hard)


@dataclass(frozen=True)
class Terms:
    """All terms of one sample of each image.

    Attributes:
        log_px: log p(x|z_dec), nats per image, (B,).
        layers: the terms of each node of the wiring, in the order in which q samples them.
    """

    log_px: Tensor
    layers: Sequence[LayerTerms]


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """Log p(x|logits) of binary images, summed over the pixels: (B, H, W), (B, H, W) → (B,), nats."""
    return (x * logits - softplus(logits)).flatten(1).sum(1)
