"""What q and p are, given their parameters: products of categoricals, or of normals.

Shape letters: B batch, N variables, K classes, M = √K (factored keys) or K (plain keys), P key parts (2 or 1).
All log-probabilities and divergences are in nats per image, summed over the layer's variables: (B,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """A sample of one layer and what the memory returned for it.

    Attributes:
        hard: H(z̃): class indices (B, N), or the value itself (B, N) for normal variables.
        read: what the network goes on with, (B, N · value size).
        scores: (log π + g)/τ, (B, N, K), of a relaxed sample of categorical variables, else None.
        soft: z̃ = softmax(scores), on the simplex.
        tau: the temperature of a relaxed sample.
    """

    hard: Tensor
    read: Tensor
    scores: Tensor | None = None
    soft: Tensor | None = None
    tau: float | Tensor = 0.0

    @property
    def log_soft(self) -> Tensor:
        """Log z̃, (B, N, K), of a relaxed sample; from the scores, since z̃ itself underflows."""
        assert self.scores is not None
        return self.scores.log_softmax(-1)


class Distribution(Protocol):
    """The law of one layer of variables given its context. One behavioural test suite runs over all."""

    def log_prob(self, hard: Tensor) -> Tensor:
        """Log-probability (density) of hard values (B, N), summed over the variables: (B,)."""
        ...

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """Eq. 15, Σ_k z̃_k log π_k, summed over the variables: (B,). For a hard draw it is `log_prob`."""
        ...

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """Log-density of log z̃ when z̃ is taken as a continuous variable (eq. 16), summed: (B,).

        For a draw that is not relaxed it is `log_prob`.
        """
        ...

    def kl(self, p: Distribution) -> Tensor:
        """KL(self ‖ p) in closed form, summed over the variables: (B,)."""
        ...

    def entropy(self) -> Tensor:
        """Entropy, summed over the variables: (B,)."""
        ...


@dataclass(frozen=True)
class Categorical:
    """N categorical variables whose log-probabilities are sums over independent key parts.

    With factored keys class k = a·M + b has log π_k = log π_a + log π_b (Lample et al. 2019): a product of two
    categoricals over M = √K classes, so every quantity here is a sum over P·M terms, never over K.

    Attributes:
        parts: normalised log-probabilities, P tensors of (B, N, M).
    """

    parts: Sequence[Tensor]

    @staticmethod
    def of_logits(parts: Sequence[Tensor]) -> Categorical:
        """Normalise P tensors of logits (B, N, M)."""
        return Categorical([part.log_softmax(-1) for part in parts])

    def joint(self) -> Tensor:
        """Log π over all classes, (B, N, K)."""
        if len(self.parts) == 1:
            return self.parts[0]
        a, b = self.parts
        return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)

    def split(self, hard: Tensor) -> list[Tensor]:
        """The class of each part, P tensors of (B, N), for joint classes (B, N)."""
        if len(self.parts) == 1:
            return [hard]
        m = self.parts[1].shape[-1]
        return [torch.div(hard, m, rounding_mode="floor"), hard % m]

    def marginals(self, soft: Tensor) -> list[Tensor]:
        """The marginals of z̃ (B, N, K) over each part: P tensors of (B, N, M)."""
        if len(self.parts) == 1:
            return [soft]
        square = soft.view(*soft.shape[:-1], self.parts[0].shape[-1], self.parts[1].shape[-1])
        return [square.sum(-1), square.sum(-2)]

    def log_prob(self, hard: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        classes = self.split(hard)
        each = [part.gather(-1, k.unsqueeze(-1)) for part, k in zip(self.parts, classes, strict=True)]
        return torch.cat(each, -1).sum((-2, -1))

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """Eq. 15. It needs only the marginals of z̃ over the key parts."""
        if draw.soft is None:
            return self.log_prob(draw.hard)
        terms = [(z * part).sum((-2, -1)) for z, part in zip(self.marginals(draw.soft), self.parts, strict=True)]
        return torch.stack(terms).sum(0)

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """The ExpConcrete density (Maddison et al. 2016): that of y = log z̃, which neither over- nor underflows.

        log Γ(K) + (K−1) log τ + Σ_k (log π_k − τ y_k) − K log Σ_k exp(log π_k − τ y_k). The density of z̃
        itself, eq. 16, is this minus Σ_k y_k; that Jacobian is the same for q and p.
        """
        if draw.soft is None:
            return self.log_prob(draw.hard)
        rates = self.joint() - draw.tau * draw.log_soft
        classes = rates.shape[-1]
        log_tau = draw.tau.log() if isinstance(draw.tau, Tensor) else math.log(draw.tau)
        constant = math.lgamma(classes) + (classes - 1) * log_tau
        return (constant + rates.sum(-1) - classes * rates.logsumexp(-1)).sum(-1)

    def kl(self, p: Distribution) -> Tensor:
        """Exact: the divergence of a product is the sum over its factors."""
        assert isinstance(p, Categorical)
        terms = [(q.exp() * (q - r)).sum((-2, -1)) for q, r in zip(self.parts, p.parts, strict=True)]
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor:
        """Exact, as `kl`."""
        return torch.stack([-(q.exp() * q).sum((-2, -1)) for q in self.parts]).sum(0)


@dataclass(frozen=True)
class Normal:
    """N independent normal variables.

    Attributes:
        mean: (B, N).
        log_scale: logarithm of the standard deviation, (B, N).
    """

    mean: Tensor
    log_scale: Tensor

    def log_prob(self, hard: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        standard = (hard - self.mean) * torch.exp(-self.log_scale)
        return (-0.5 * standard.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """A normal sample is never relaxed: `log_prob` of the value."""
        return self.log_prob(draw.hard)

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """A normal sample is never relaxed: `log_prob` of the value."""
        return self.log_prob(draw.hard)

    def kl(self, p: Distribution) -> Tensor:
        """Closed form of the divergence between two normals."""
        assert isinstance(p, Normal)
        ratio = torch.exp(2 * (self.log_scale - p.log_scale))
        shift = (self.mean - p.mean) * torch.exp(-p.log_scale)
        return (0.5 * (ratio + shift.square() - 1) + p.log_scale - self.log_scale).sum(-1)

    def entropy(self) -> Tensor:
        """Differential entropy."""
        return (self.log_scale + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)
