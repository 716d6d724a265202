"""Noise and batches: every random number is a function of (seed, purpose, step, block of images).

There is no random state. Therefore a resumed run draws the same numbers as an uninterrupted one, runs with the same
seed share their noise, and the number of workers does not change it: images are grouped into blocks with one generator
each, and a worker draws the numbers of its own blocks.
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
    """A random generator on `device`, seeded with `derive(seed, purpose, *parts)`."""
    return torch.Generator(device).manual_seed(derive(seed, purpose, *parts))


@dataclass(frozen=True)
class NoiseSource:
    """The noise of the images `first … first + count − 1` of a batch, in blocks of `BLOCK` images.

    Successive calls draw successive numbers, so the order of the calls matters.

    Attributes:
        generators: the random generator of each block.
        count: the number of images.
        dtype: the type of the noise.
        device: the device of the noise.
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
        """The noise source of one training step, or of one draw in an evaluation.

        Args:
            device: the device of the noise.
            dtype: the type of the noise.
            count: the number of images.
            seed: the seed of the run.
            purpose: what the noise is used for.
            step: the number of the training step or of the draw.
            first: the index of the first image, a multiple of `BLOCK`.

        Raises:
            ValueError: `first` is not a multiple of `BLOCK`.
        """
        if first % BLOCK:
            raise ValueError(f"first is {first}, but noise is drawn in blocks of {BLOCK} images")
        blocks = range(first // BLOCK, (first + count + BLOCK - 1) // BLOCK)
        return NoiseSource([generator(device, seed, purpose, step, b) for b in blocks], count, dtype, device)

    def _fill(self, shape: tuple[int, ...], kind: str) -> Tensor:
        # Also the last block is drawn as a whole: the noise of an image must not depend on the number of images.
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

        It is computed from uniform noise, since `exponential_` is several times slower on a CPU. The uniform noise may
        be exactly 0, which would give −∞; its smallest positive value is 2⁻²⁴.
        """
        uniform = self._fill(shape, "uniform").clamp_(min=2.0**-25)
        return uniform.log_().neg_().log_().neg_()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, (count, *shape)."""
        return self._fill(shape, "normal")


def batch_indices(seed: int, step: int, batch_size: int, images: int) -> np.ndarray:
    """The indices of the images of a training step, (batch_size,).

    Over the steps the indices are one random permutation of all images after another.
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
