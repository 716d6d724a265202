"""What q and p are, given their parameters: products of categoricals, or of normals.

Shape letters: B batch, N variables, K classes, M = √K (factored keys) or K (plain keys), P key parts (2 or 1).
All log-probabilities and divergences are in nats per image, summed over the layer's variables: (B,).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draw:
    """A sample of one layer and what the memory returned for it.

    Attributes:
        hard: H(z̃): class indices (B, N), or the value itself (B, N) for normal variables.
        read: what the network goes on with, (B, N · value size).
        scores: (log π + g)/τ up to a constant, of a relaxed sample of categorical variables, else None: of all classes
            (B, N, K), or of those that were seen (B, N, C).
        soft: z̃ = softmax(scores), on the simplex.
        tau: the temperature of a relaxed sample.
        slots: the classes that were seen, the hard one first, (B, N, C); None where `scores` has all of them. A class
            may be there again, with the weight 0.
        dropped: bound of the expected share of z̃ that was not seen, (B,), mean over the variables; else None.
    """

    hard: Tensor
    read: Tensor
    scores: Tensor | None = None
    soft: Tensor | None = None
    tau: float | Tensor = 0.0
    slots: Tensor | None = None
    dropped: Tensor | None = None

    @property
    def log_soft(self) -> Tensor:
        """Log z̃, (B, N, K), of a relaxed sample; from the scores, since z̃ itself underflows."""
        assert self.scores is not None
        return self.scores.log_softmax(-1)

    @property
    def place(self) -> Tensor:
        """Where in `soft` the hard class stands, (B, N)."""
        return self.hard if self.slots is None else torch.zeros_like(self.hard)


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


class Categorical:
    """N categorical variables whose log-probabilities are sums over independent key parts.

    With factored keys class k = a·M + b has log π_k = log π_a + log π_b (Lample et al. 2019): a product of two
    categoricals over M = √K classes, so every quantity here is a sum over P·M terms, never over K.

    Attributes:
        logits: log-probabilities up to a constant for each variable and part, P tensors of (B, N, M).
    """

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self.logits = logits

    @property
    def sizes(self) -> Sequence[int]:
        """M of each part."""
        return [part.shape[-1] for part in self.logits]

    @functools.cached_property
    def parts(self) -> list[Tensor]:
        """Normalised log-probabilities, P tensors of (B, N, M)."""
        return [_normalised(part) for part in self.logits]

    def weights(self, part: int, variables: slice) -> Tensor:
        """Probabilities of a part's classes up to a factor, the largest 1, of some variables, (B, n, M); no graph."""
        return powers_of_two(self.logits[part][:, variables].detach() / math.log(2))

    def tie(self, part: int, chosen: Tensor) -> Tensor:
        """Zeros (B, N, C) with the gradient of a part's logits at some of its classes (B, N, C)."""
        zeros: Tensor = _Tie.apply(self.logits[part], chosen)  # type: ignore[no-untyped-call]
        return zeros

    @property
    def classes(self) -> int:
        """K."""
        return math.prod(self.sizes)

    def joint(self) -> Tensor:
        """Log π over all classes, (B, N, K)."""
        if len(self.parts) == 1:
            return self.parts[0]
        a, b = self.parts
        return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)

    def split(self, hard: Tensor) -> list[Tensor]:
        """The class of each part, P tensors of the same shape, for joint classes (B, N) or (B, N, C)."""
        if len(self.sizes) == 1:
            return [hard]
        m = self.sizes[1]
        return [torch.div(hard, m, rounding_mode="floor"), hard % m]

    def marginals(self, soft: Tensor) -> list[Tensor]:
        """The marginals of z̃ (B, N, K) over each part: P tensors of (B, N, M)."""
        if len(self.sizes) == 1:
            return [soft]
        square = soft.view(*soft.shape[:-1], *self.sizes)
        return [square.sum(-1), square.sum(-2)]

    def log_prob(self, hard: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        return _at(self.parts, self.split(hard.unsqueeze(-1))).sum((-2, -1))

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """Eq. 15. It needs only the marginals of z̃ over the key parts, or the classes that were seen."""
        if draw.soft is None:
            return self.log_prob(draw.hard)
        if draw.slots is not None:
            return (draw.soft * _at(self.parts, self.split(draw.slots))).sum((-2, -1))
        terms = [(z * part).sum((-2, -1)) for z, part in zip(self.marginals(draw.soft), self.parts, strict=True)]
        return torch.stack(terms).sum(0)

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """The ExpConcrete density (Maddison et al. 2016): that of y = log z̃, which neither over- nor underflows.

        log Γ(K) + (K−1) log τ + Σ_k (log π_k − τ y_k) − K log Σ_k exp(log π_k − τ y_k). The density of z̃
        itself, eq. 16, is this minus Σ_k y_k; that Jacobian is the same for q and p.
        """
        if draw.soft is None:
            return self.log_prob(draw.hard)
        assert draw.slots is None, "the density is that of all classes"
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


def powers_of_two(logarithms: Tensor) -> Tensor:
    """2^l for l (…, M), divided by the largest of the M; in the place of l. `exp` and `softmax` are slower."""
    return logarithms.sub_(logarithms.amax(-1, keepdim=True)).exp2_()


class _Tie(torch.autograd.Function):
    """Zeros with the gradient of `gather` over the last dimension."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, chosen: Tensor) -> Tensor:
        ctx.save_for_backward(chosen)
        ctx.shape = logits.shape
        return logits.new_zeros(()).expand(chosen.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (chosen,) = ctx.saved_tensors
        return gradients[0].new_zeros(ctx.shape).scatter_add_(-1, chosen, gradients[0]), None


def _normalised(logits: Tensor) -> Tensor:
    """`log_softmax` of logits (B, N, M) over M.

    Batched products of queries and keys lie in memory as (N, B, M): in another order it would copy them.
    """
    return logits.transpose(0, 1).log_softmax(-1).transpose(0, 1)


def _at(parts: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
    """Sums of parts (B, N, M) at part classes (B, N, C): (B, N, C)."""
    first, *rest = (part.gather(-1, k) for part, k in zip(parts, classes, strict=True))
    return sum(rest, first)


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
