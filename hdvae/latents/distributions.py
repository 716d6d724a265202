"""The distributions q and p of a layer of latent variables: products of categorical or of normal distributions.

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
    """A sample of one layer and its read.

    The sample is hard if `soft` is None; all attributes from `scores` on describe a relaxed sample of categorical
    variables.

    Attributes:
        hard: H(z̃): class indices (B, N), or the values (B, N) of normal variables.
        read: the read of the memory, or the values of normal variables: (B, N · value size).
        scores: (log π + g)/τ up to a constant: of all classes (B, N, K), or of the classes in `slots` (B, N, C).
        soft: the weights z̃ = softmax(scores), in the shape of `scores`.
        tau: the temperature.
        slots: the classes of a sampled top-m read, the hard one first, (B, N, C); None if `scores` has all classes. A
            class may occur again with weight 0.
        dropped: upper bound of the expected share of z̃ that a sampled top-m read drops, mean over the variables, (B,).
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
        """Log z̃ of a relaxed sample, (B, N, K). It is computed from the scores, since z̃ itself may underflow."""
        assert self.scores is not None
        return self.scores.log_softmax(-1)

    @property
    def place(self) -> Tensor:
        """The index of the hard class in the last dimension of `soft`, (B, N)."""
        return self.hard if self.slots is None else torch.zeros_like(self.hard)


class Distribution(Protocol):
    """The distribution of one layer of variables given its context. The same tests run on all implementations."""

    def log_prob(self, hard: Tensor) -> Tensor:
        """Log-probability (density) of hard values (B, N), summed over the variables: (B,)."""
        ...

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """Eq. 15, Σ_k z̃_k log π_k, summed over the variables: (B,). For a hard draw this is `log_prob`."""
        ...

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """Log-density of log z̃ for the continuous variable z̃ (eq. 16), summed over the variables: (B,).

        The temperature is that of the draw, for q and p alike. For a hard draw this is `log_prob`.
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

    With factored keys, class k = a·M + b has log π_k = log π_a + log π_b (Lample et al. 2019). This is a product of two
    categorical distributions over M = √K classes, so all sums here have P·M terms instead of K.

    Attributes:
        logits: log-probabilities up to a constant, for each variable and part: P tensors (B, N, M).
    """

    def __init__(self, logits: Sequence[Tensor]) -> None:
        self.logits = logits

    @property
    def sizes(self) -> Sequence[int]:
        """The number of classes M of each part."""
        return [part.shape[-1] for part in self.logits]

    @functools.cached_property
    def parts(self) -> list[Tensor]:
        """Normalised log-probabilities, P tensors (B, N, M)."""
        return [_normalised(part) for part in self.logits]

    def weights(self, part: int, variables: slice) -> Tensor:
        """Probabilities of the classes of a part for n variables, divided by the largest one, (B, n, M); no graph."""
        return powers_of_two(self.logits[part][:, variables].detach() / math.log(2))

    def tie(self, part: int, chosen: Tensor) -> Tensor:
        """Zeros (B, N, C) with the gradient of the logits of a part at the chosen classes (B, N, C)."""
        zeros: Tensor = _Tie.apply(self.logits[part], chosen)  # type: ignore[no-untyped-call]
        return zeros

    @property
    def classes(self) -> int:
        """K."""
        return math.prod(self.sizes)

    def joint(self) -> Tensor:
        """Log π of all classes, (B, N, K)."""
        if len(self.parts) == 1:
            return self.parts[0]
        a, b = self.parts
        return (a.unsqueeze(-1) + b.unsqueeze(-2)).flatten(-2)

    def split(self, hard: Tensor) -> list[Tensor]:
        """The part classes of joint classes (B, N) or (B, N, C): P tensors of the same shape."""
        if len(self.sizes) == 1:
            return [hard]
        m = self.sizes[1]
        return [torch.div(hard, m, rounding_mode="floor"), hard % m]

    def marginals(self, soft: Tensor) -> list[Tensor]:
        """The marginals of z̃ (B, N, K) for each part: P tensors (B, N, M)."""
        if len(self.sizes) == 1:
            return [soft]
        square = soft.view(*soft.shape[:-1], *self.sizes)
        return [square.sum(-1), square.sum(-2)]

    def log_prob(self, hard: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        return _at(self.parts, self.split(hard.unsqueeze(-1))).sum((-2, -1))

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """Eq. 15, from the marginals of z̃ for the key parts, or from the classes of a sampled top-m read."""
        if draw.soft is None:
            return self.log_prob(draw.hard)
        if draw.slots is not None:
            return (draw.soft * _at(self.parts, self.split(draw.slots))).sum((-2, -1))
        terms = [(z * part).sum((-2, -1)) for z, part in zip(self.marginals(draw.soft), self.parts, strict=True)]
        return torch.stack(terms).sum(0)

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """The ExpConcrete density (Maddison et al. 2016) of y = log z̃, which neither overflows nor underflows.

        log Γ(K) + (K−1) log τ + Σ_k (log π_k − τ y_k) − K log Σ_k exp(log π_k − τ y_k). The log-density of z̃ itself
        (eq. 16) is this minus Σ_k y_k; that Jacobian is the same for q and p.
        """
        if draw.soft is None:
            return self.log_prob(draw.hard)
        assert draw.slots is None, "the Concrete density needs the weights of all classes"
        rates = self.joint() - draw.tau * draw.log_soft
        classes = rates.shape[-1]
        log_tau = draw.tau.log() if isinstance(draw.tau, Tensor) else math.log(draw.tau)
        constant = math.lgamma(classes) + (classes - 1) * log_tau
        return (constant + rates.sum(-1) - classes * rates.logsumexp(-1)).sum(-1)

    def kl(self, p: Distribution) -> Tensor:
        """The exact divergence: that of a product of distributions is the sum over its factors."""
        assert isinstance(p, Categorical)
        terms = [(q.exp() * (q - r)).sum((-2, -1)) for q, r in zip(self.parts, p.parts, strict=True)]
        return torch.stack(terms).sum(0)

    def entropy(self) -> Tensor:
        """The exact entropy, the sum over the factors."""
        return torch.stack([-(q.exp() * q).sum((-2, -1)) for q in self.parts]).sum(0)


def powers_of_two(logarithms: Tensor) -> Tensor:
    """2^l for l (…, M), divided by the largest of the M, computed in place. `exp` and `softmax` are slower."""
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

    Batched products of queries and keys have the memory layout (N, B, M); the transposition avoids a copy.
    """
    return logits.transpose(0, 1).log_softmax(-1).transpose(0, 1)


def _at(parts: Sequence[Tensor], classes: Sequence[Tensor]) -> Tensor:
    """The sum of all parts (B, N, M) at the given part classes (B, N, C): (B, N, C)."""
    first, *rest = (part.gather(-1, k) for part, k in zip(parts, classes, strict=True))
    return sum(rest, first)


@dataclass(frozen=True)
class Normal:
    """N independent normal variables.

    Attributes:
        mean: the means, (B, N).
        log_scale: the logarithms of the standard deviations, (B, N).
    """

    mean: Tensor
    log_scale: Tensor

    def log_prob(self, hard: Tensor) -> Tensor:
        """See `Distribution.log_prob`."""
        standard = (hard - self.mean) * torch.exp(-self.log_scale)
        return (-0.5 * standard.square() - self.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def expected_log_prob(self, draw: Draw) -> Tensor:
        """`log_prob` of the value, since normal samples are never relaxed."""
        return self.log_prob(draw.hard)

    def concrete_log_prob(self, draw: Draw) -> Tensor:
        """`log_prob` of the value, since normal samples are never relaxed."""
        return self.log_prob(draw.hard)

    def kl(self, p: Distribution) -> Tensor:
        """The divergence between two normal distributions in closed form."""
        assert isinstance(p, Normal)
        ratio = torch.exp(2 * (self.log_scale - p.log_scale))
        shift = (self.mean - p.mean) * torch.exp(-p.log_scale)
        return (0.5 * (ratio + shift.square() - 1) + p.log_scale - self.log_scale).sum(-1)

    def entropy(self) -> Tensor:
        """The differential entropy."""
        return (self.log_scale + 0.5 * (1 + math.log(2 * math.pi))).sum(-1)
