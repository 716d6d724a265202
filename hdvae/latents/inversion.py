"""Draws of classes from a categorical distribution with many classes, by inversion of its cumulative sums.

Shape letters: B batch, N variables, M classes of a key part, P key parts, C draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hdvae.latents.distributions import Categorical

CACHED = 2**20
"""Number of class weights computed at a time. Larger blocks do not fit into the cache, and raise the peak memory."""
MANY, SLABS = 256, 8
"""From `MANY` classes on, the classes of a part are laid out in `SLABS` slabs, if their number is divisible by it."""


@dataclass(frozen=True)
class ClassDraws:
    """Independent draws from a categorical distribution.

    Attributes:
        slots: the classes, (B, N, C).
        pi: their probabilities, without gradient, (B, N, C).
        tie: zeros with the gradient of the sum of the logits of each class, (B, N, C). This equals the gradient of
            log π except for the normaliser, which is common to all classes and cancels in a softmax of scores.
    """

    slots: Tensor
    pi: Tensor
    tie: Tensor


def draw_classes(law: Categorical, uniform: Tensor) -> ClassDraws:
    """Draw classes by inversion in each key part; the parts of a class are independent.

    Args:
        law: the distribution of the classes.
        uniform: uniform numbers in [0, 1), (B, N, P, C).
    """
    each = [_draw_part(law, p, uniform[:, :, p]) for p in range(len(law.sizes))]
    a = each[0]
    if len(each) == 1:
        return ClassDraws(a.slots.long(), a.pi, a.tie)
    b = each[1]
    return ClassDraws(a.slots.long() * law.sizes[1] + b.slots, a.pi * b.pi, a.tie + b.tie)


def _draw_part(law: Categorical, part: int, uniform: Tensor) -> ClassDraws:
    reads, variables = uniform.shape[:2]
    most = max(1, CACHED // max(1, reads * law.sizes[part]))
    blocks = [slice(n, n + most) for n in range(0, variables, most)]
    drawn = [_inverse(law.weights(part, block), uniform[:, block]) for block in blocks]
    chosen, pi = drawn[0] if len(drawn) == 1 else (torch.cat(parts, 1) for parts in zip(*drawn, strict=True))
    return ClassDraws(chosen, pi, law.tie(part, chosen))


def _inverse(weights: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Classes by inversion of uniform numbers, and their probabilities, both (…, C). No class of weight 0 is drawn.

    With many classes, a cumulative sum over all M of them would take most of the time, since each step waits for the
    one before. Therefore many classes are laid out in slabs, one below the other: the sums run down all columns at
    once, and then over the totals of the columns.

    Args:
        weights: weights of the classes up to a factor, (…, M); overwritten.
        uniform: uniform numbers in [0, 1), (…, C).
    """
    slabs = math.gcd(weights.shape[-1], SLABS) if weights.shape[-1] >= MANY else 1
    columns = weights.shape[-1] // slabs
    for s in range(1, slabs):
        weights[..., s * columns :][..., :columns] += weights[..., (s - 1) * columns :][..., :columns]
    totals = weights[..., -columns:]
    cumulative = totals.cumsum(-1)
    total = cumulative[..., -1:]
    target = uniform * total
    place = _first_above(cumulative, target, torch.zeros_like(target, dtype=torch.int32), 1)
    below = cumulative.gather(-1, (place - 1).clamp_(min=0)).mul_(place > 0)
    if slabs == 1:
        return place, (cumulative.gather(-1, place) - below) / total
    # Just below the total of the column: else rounding could push the target past its last class.
    almost_all = totals.gather(-1, place).mul_(1 - torch.finfo(target.dtype).eps / 2)
    target = torch.minimum(target.sub_(below), almost_all, out=target)
    place = _first_above(weights, target, place, columns)
    # The difference of two neighbouring sums is the exact probability of a class, including all rounding.
    below = weights.gather(-1, (place - columns).clamp_(min=0)).mul_(place >= columns)
    return place, (weights.gather(-1, place) - below) / total


def _first_above(sums: Tensor, target: Tensor, start: Tensor, stride: int) -> Tensor:
    """The first of the places `start`, `start` + stride, … (…, C) whose sum (…, M) exceeds the target, else the last.

    A binary search without branches; `searchsorted` suffers from mispredicted branches and takes two to three times as
    long. `start` is overwritten; 32-bit integers there save a third of the time.
    """
    place, count = start, sums.shape[-1] // stride
    step = 1 << (count - 1).bit_length() >> 1
    while step:
        probe = place + (step - 1) * stride
        if count & (count - 1):
            probe.clamp_(max=sums.shape[-1] - 1)
        place.add_(sums.gather(-1, probe) <= target, alpha=step * stride)
        step >>= 1
    return place.clamp_(max=sums.shape[-1] - 1) if count & (count - 1) else place
