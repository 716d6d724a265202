"""Noise and batches: every random number is a function of names, and there is no random state.

Therefore a resumed run draws the same numbers as an uninterrupted one, runs with the same seed share their noise, and
neither the number of workers, nor of threads, nor the device, nor the size of the parts in which a data set is
evaluated changes it.

The definition, in three steps:

1. (seed, purpose, step) is the name of a `NoiseSource`, whose key is a 128-bit hash of the name. The key determines a
   stream of 64-bit words, one for each position (`hdvae.randomness.words`).
2. Draw c = 0, 1, … of a source begins at position c · 2⁴⁰. If an image needs n words in it, image i of the batch has
   the words i n … (i + 1) n − 1.
3. The words of an image are cut into integers, the lowest bits first: 64 bits each for noise in double precision, 32 in
   single precision, 16 for chances. An integer whose lowest 63 (31) bits are k gives the fraction (k + ½)/2⁶³ (2³¹),
   rounded in the precision of the noise, to a number below 1.

So the numbers of a step may be computed in another order, in larger parts, or ahead of their use, and stay the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hdvae.randomness.seeds import derive, derive_key
from hdvae.randomness.words import Stream

DRAW = 2**40
"""Number of positions of a stream that belong to one draw."""
CHANCES = 2**16
"""The unit of the probability in `NoiseSource.chance` is 1/CHANCES."""


@dataclass
class NoiseSource:
    """The noise of the images `first … first + count − 1` of a batch. Successive calls draw successive numbers.

    Attributes:
        stream: the random words of all images.
        count: the number of images.
        first: the index of the first image.
        dtype: the type of the noise, float32 or float64.
        device: the device of the noise.
        draws: the number of draws so far.
    """

    stream: Stream
    count: int
    first: int
    dtype: torch.dtype
    device: torch.device
    draws: int = 0

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
            dtype: the type of the noise, float32 or float64.
            count: the number of images.
            seed: the seed of the run.
            purpose: what the noise is used for.
            step: the number of the training step or of the draw.
            first: the index of the first image.
        """
        return NoiseSource(Stream.of(derive_key(seed, purpose, step)), count, first, dtype, device)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform noise in (0, 1), (count, *shape): small numbers have the full relative precision, down to 2⁻³²."""
        return self._fractions(1.0, *shape)

    def gumbel(self, *shape: int) -> Tensor:
        """Standard Gumbel noise, (count, *shape): −log E with the unit exponential E = −log(1 − u).

        Large values come from small u, which are precise: in float32 the largest is 22. Values below −2.8 (−3.6 in
        float64), of which there are fewer than 1 in 10⁷, are set to this.
        """
        return self._fractions(-1.0, *shape).log1p_().neg_().log_().neg_()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal noise, (count, *shape), up to ±6.6 in float32, in pairs r (cos θ, sin θ).

        Source: Box and Muller 1958, "A note on the generation of random normal deviates".
        """
        values = math.prod(shape)
        squared, angle = self._fractions(1.0, 2, (values + 1) // 2).unbind(1)
        radius, angle = squared.log_().mul_(-2).sqrt_(), angle.mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :values].reshape(self.count, *shape)

    def chance(self, share: int, *shape: int) -> Tensor:
        """Independent booleans, each true with the probability share/CHANCES, (count, *shape)."""
        return self._integers(torch.int16, *shape) < share - CHANCES // 2

    def _fractions(self, sign: float, *shape: int) -> Tensor:
        """± uniform numbers in (0, 1), (count, *shape)."""
        integer, bits = (torch.int64, 63) if self.dtype == torch.float64 else (torch.int32, 31)
        k = self._integers(integer, *shape).bitwise_and_(2**bits - 1)
        below_one = 1 - torch.finfo(self.dtype).eps / 2  # else the largest k would be rounded to 1
        return k.to(self.dtype).add_(0.5).mul_(sign * below_one / 2**bits)

    def _integers(self, integer: torch.dtype, *shape: int) -> Tensor:
        """Random integers, all values of the type equally likely, (count, *shape)."""
        values, each = math.prod(shape), 8 // integer.itemsize
        words = -(-values // each)
        position = self.draws * DRAW + self.first * words
        self.draws += 1
        drawn = self.stream.words(position, self.count * words, self.device).view(integer)
        return drawn.view(self.count, words * each)[:, :values].reshape(self.count, *shape)


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
