"""Streams of random 64-bit words, each a function of its position: SplitMix64 with a key of 127 bits.

Word p of a stream is mix(k + p γ) in arithmetic modulo 2⁶⁴, where the key of the stream is the start k and the odd
increment γ, and mix is a bijection of a few shifts and products. Any part of a stream can therefore be computed by
itself, in any order, on any device, with the same bits.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators" (figures 16 and 17).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

WORD = 2**64
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1))
"""The steps of mix: x ← (x ⊕ (x shifted right by the first number)) · the second number."""
FEWEST_CHANGES = 24
"""Smallest number of changes between neighbouring bits of an increment."""
CHUNK = 2**15
"""Number of words that a CPU computes at a time: they stay in the cache."""


@dataclass(frozen=True)
class Stream:
    """A stream of random words.

    Attributes:
        start: k, 0 ≤ k < 2⁶⁴.
        increment: γ, odd, 0 < γ < 2⁶⁴.
    """

    start: int
    increment: int

    @staticmethod
    def of(key: int) -> Stream:
        """The stream of a 128-bit key. An increment with few changes between its bits is altered, as in the source."""
        start, increment = key >> 64, key % WORD | 1
        changes = (increment ^ increment >> 1).bit_count()
        return Stream(start, increment if changes >= FEWEST_CHANGES else increment ^ 0xAAAAAAAAAAAAAAAA)

    def words(self, first: int, count: int, device: torch.device) -> Tensor:
        """The words at the positions first … first + count − 1, (count,), as signed integers of 64 bits."""
        begin = (self.start + first * self.increment) % WORD
        if device.type == "cpu":
            return _by_numpy(begin, self.increment, count)
        return _by_torch(begin, self.increment, count, device)


def _by_numpy(begin: int, increment: int, count: int) -> Tensor:
    """Mix(begin + p γ) for 0 ≤ p < count. NumPy has unsigned integers, and takes half the time of torch."""
    made = torch.empty(count, dtype=torch.int64)
    out = made.numpy().view(np.uint64)
    ramp = np.arange(min(count, CHUNK), dtype=np.uint64) * np.uint64(increment)
    spare = np.empty_like(ramp)
    for first in range(0, count, CHUNK):
        words = out[first : first + CHUNK]
        shifted = spare[: len(words)]
        np.add(ramp[: len(words)], np.uint64((begin + first * increment) % WORD), out=words)
        for shift, factor in MIX:
            np.right_shift(words, np.uint64(shift), out=shifted)
            np.bitwise_xor(words, shifted, out=words)
            if factor != 1:
                np.multiply(words, np.uint64(factor), out=words)
    return made


def _by_torch(begin: int, increment: int, count: int, device: torch.device) -> Tensor:
    """The same with signed integers, whose products wrap around, and whose shifts copy the sign."""
    words = torch.arange(count, device=device).mul_(_signed(increment)).add_(_signed(begin))
    for shift, factor in MIX:
        words.bitwise_xor_((words >> shift).bitwise_and_(2 ** (64 - shift) - 1))
        if factor != 1:
            words.mul_(_signed(factor))
    return words


def _signed(word: int) -> int:
    return word - WORD if word >= WORD // 2 else word
