"""Dropout (Srivastava et al. 2014) whose masks are a function of seed, step and image, as all noise is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hdvae.randomness.noise import CHANCES, NoiseSource


class Dropout(nn.Module):
    """x · m / P(m = 1) with an independent mask m of 0 and 1 for each entry in training mode, else x.

    Attributes:
        kept: P(m = 1), in units of 1/`CHANCES`.
        noise: what masks are drawn from, inside `dropping`.
    """

    def __init__(self, rate: float) -> None:
        """Set the rate of zeros, 0 ≤ rate < 1, which is rounded to a multiple of 1/`CHANCES`."""
        super().__init__()
        self.kept = max(1, round((1 - rate) * CHANCES))
        self.noise: NoiseSource | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Features (S · B, …) to features of the same shape, for S copies of the B images of the noise.

        Raises:
            RuntimeError: the module is in training mode, and there is no noise.
        """
        if not self.training or self.kept == CHANCES:
            return x
        if self.noise is None:
            raise RuntimeError("dropout in training mode needs noise: use `hdvae.network.dropout.dropping`")
        copies = len(x) // self.noise.count
        mask = self.noise.chance(self.kept, copies, *x.shape[1:]).transpose(0, 1).reshape(x.shape)
        return x * torch.empty_like(x).copy_(mask).mul_(CHANCES / self.kept)  # in the memory layout of x

    def extra_repr(self) -> str:
        """The rate of zeros."""
        return f"rate={1 - self.kept / CHANCES:.5g}"


@contextmanager
def dropping(dropouts: Sequence[Dropout], noise: Callable[[str], NoiseSource]) -> Iterator[None]:
    """Give each module its own noise inside the context: successive passes through it draw successive masks.

    Args:
        dropouts: the modules, numbered in this order.
        noise: the noise of the images for a purpose.
    """
    for number, module in enumerate(dropouts):
        module.noise = noise(f"dropout {number}")
    try:
        yield
    finally:
        for module in dropouts:
            module.noise = None
