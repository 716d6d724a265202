"""Every random number is a function of (seed, purpose, step, block of images).

No state is carried from step to step, so a resumed run draws what the uninterrupted one would have drawn,
the arms of a study can share their noise, and the number of workers does not change it: images are grouped
into blocks, each with a generator of its own, and a worker draws the blocks that it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdvae.randomness.seeds import derive
from hdvae.randomness.shares import BLOCK


def generator(device: torch.device, seed: int, purpose: str, *parts: int) -> torch.Generator:
    """A generator on `device` that starts at `derive(seed, purpose, *parts)`."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, *parts))


@dataclass(frozen=True)
class NoiseSource:
    """Noise for the images `first … first + count − 1` of a batch, in blocks of `BLOCK`.

    Successive calls draw successive numbers: the caller's order of calls is part of the function.
    `first` is a multiple of `BLOCK`.
    """

    generators: Sequence[torch.Generator]
    count: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def at(
        device: torch.device,
        dtype: torch.dtype,
        count: int,
        *,
        seed: int,
        purpose: str,
        step: int,
        first: int = 0,
    ) -> NoiseSource:
        """The source for one step, or one evaluation draw.

        Raises:
            ValueError: `first` is not a multiple of `BLOCK`.
        """
        if first % BLOCK:
            raise ValueError(f"first is {first}: noise is drawn in blocks of {BLOCK} images")
        blocks = range(first // BLOCK, (first + count + BLOCK - 1) // BLOCK)
        return NoiseSource([generator(device, seed, purpose, step, b) for b in blocks], count, dtype, device)

    def _fill(self, shape: tuple[int, ...], kind: str) -> Tensor:
        # Whole blocks, also for the last one: the noise of an image must not depend on how many follow it.
        out = torch.empty(len(self.generators), BLOCK, *shape, dtype=self.dtype, device=self.device)
        for part, source in zip(out, self.generators, strict=True):
            if kind == "uniform":
                part.uniform_(generator=source)
            else:
                part.normal_(generator=source)
        return out.view(-1, *shape)[: self.count] if self.count else out.new_empty(0, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform noise in [0, 1), (count, *shape)."""
        return self._fill(shape, "uniform")

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel noise, (count, *shape).

        Through a uniform: `exponential_` is several times slower on a CPU. The uniform may be exactly 0,
        which would give −∞; the smallest positive value that it can otherwise take is 2⁻²⁴.
        """
        uniform = self._fill(shape, "uniform").clamp_(min=2.0**-25)
        return uniform.log_().neg_().log_().neg_()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, (count, *shape)."""
        return self._fill(shape, "normal")


def batch_indices(seed: int, step: int, batch_size: int, images: int) -> np.ndarray:
    """Which images the step sees: (batch_size,) indices, a stream of one permutation after another.

    Every image is seen once before any is seen again.
    """
    first = step * batch_size
    positions = np.arange(first, first + batch_size)
    epochs = positions // images
    out = np.empty(batch_size, dtype=np.int64)
    for epoch in np.unique(epochs):
        order = np.random.Generator(np.random.Philox(derive(seed, "order", int(epoch)))).permutation(images)
        mine = epochs == epoch
        out[mine] = order[positions[mine] % images]
    return out
