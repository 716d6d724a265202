"""Relaxed samples of all classes, and reads of all slots of a memory, in as few passes over the numbers as can be.

The (B, N, K) tensors of a training step are its largest. Noise is laid out as (B, N, K), products of queries and keys
as (N, B, M): sums of the two in any other order than here, and what follows from them, would be copied several times.

Shape letters: B batch, N variables, K classes, M = √K (factored) or K (plain), D value size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def perturbed(parts: Sequence[Tensor], noise: Tensor) -> Tensor:
    """The sum of log-probabilities and noise, log π_k + g_k for each class k = a·M + b, (B, N, K).

    Args:
        parts: the log-probabilities of each key part, P tensors (B, N, M).
        noise: g, (B, N, K).
    """
    if len(parts) == 1:
        return noise + parts[0]
    a, b = parts
    square = noise.view(*noise.shape[:-1], a.shape[-1], b.shape[-1])
    return (square + a.unsqueeze(-1)).add_(b.unsqueeze(-2)).flatten(-2)


def largest(scores: Tensor) -> Tensor:
    """The class with the largest score, the first of equal ones: (B, N, K) → (B, N).

    On a CPU NumPy takes a tenth of the time of torch.
    """
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.detach().numpy().argmax(-1))
    return scores.argmax(-1)


class _Relaxed(torch.autograd.Function):
    """The scores (log π + g)/τ and their softmax. What is divided by τ in the backward pass are sums over classes."""

    @staticmethod
    def forward(ctx: Any, noise: Tensor, tau: float | Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        scores = perturbed(parts, noise).mul_(1 / tau)
        soft = scores.softmax(-1)
        ctx.save_for_backward(scores, soft)
        ctx.tau, ctx.sizes = tau, [part.shape[-1] for part in parts]
        ctx.set_materialize_grads(False)
        return scores, soft

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        scores, soft = ctx.saved_tensors
        total, for_soft = gradients
        if for_soft is not None:
            through = torch.ops.aten._softmax_backward_data(for_soft, soft, -1, soft.dtype)
            total = through if total is None else total + through
        if total is None:
            return (None,) * (2 + len(ctx.sizes))
        for_tau = -(total * scores).sum() / ctx.tau if ctx.needs_input_grad[1] else None
        if len(ctx.sizes) == 1:
            return None, for_tau, total / ctx.tau
        square = total.view(*total.shape[:-1], *ctx.sizes)
        return None, for_tau, square.sum(-1).div_(ctx.tau), square.sum(-2).div_(ctx.tau)


def relaxed(parts: Sequence[Tensor], noise: Tensor, tau: float | Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 4: the scores (log π + g)/τ and their softmax z̃, both (B, N, K), differentiable once.

    Args:
        parts: the log-probabilities of each key part, P tensors (B, N, M).
        noise: standard Gumbel noise g, (B, N, K), which has no gradient.
        tau: the temperature τ > 0, a number or 0-dim.
    """
    made: tuple[Tensor, Tensor] = _Relaxed.apply(noise, tau, *parts)  # type: ignore[no-untyped-call]
    return made


class _Read(torch.autograd.Function):
    """Σ_k w_k v_k. Matrix products whose last dimension is D are slow, so D comes first in all but one of these."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values)
        if len(values) == 1:
            return weights @ values[0]
        return torch.bmm(values.mT, weights.permute(1, 2, 0)).permute(2, 0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weights, values = ctx.saved_tensors
        gradient, shared = gradients[0], len(values) == 1
        for_weights = for_values = None
        if ctx.needs_input_grad[0]:
            if shared:
                for_weights = gradient @ values[0].T
            else:
                for_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
                torch.bmm(gradient.transpose(0, 1), values.mT, out=for_weights.transpose(0, 1))
        if ctx.needs_input_grad[1]:
            if shared:
                for_values = (gradient.flatten(0, 1).T @ weights.flatten(0, 1)).unsqueeze(0).mT
            else:
                for_values = torch.bmm(gradient.permute(1, 2, 0), weights.transpose(0, 1)).mT
        return for_weights, for_values


def read_all(values_NKD: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of all slots Σ_k w_k v_k, (B, N, D), differentiable once.

    Args:
        values_NKD: the values of each variable, or one table for all variables, (N or 1, K, D).
        weights: the weights of the slots, (B, N, K).
    """
    read: Tensor = _Read.apply(weights, values_NKD)  # type: ignore[no-untyped-call]
    return read
