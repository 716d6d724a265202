"""Seeds of random numbers, one for each purpose."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *parts: int) -> int:
    """A 63-bit seed for one purpose. It is a hash, so that neighbouring seeds and steps are unrelated.

    `torch.manual_seed` uses 32 bits of it on a CPU: enough for one draw in a run (the initial weights), too few for
    draws in every step, of which some would coincide. These use `derive_key`.

    >>> derive(0, "order", 1) == derive(0, "order", 1), derive(0, "order", 1) == derive(0, "order", 2)
    (True, False)
    """
    return _hash(8, seed, purpose, *parts) >> 1


def derive_key(seed: int, purpose: str, *parts: int) -> int:
    """A 128-bit key for one purpose: so wide that no two ever coincide."""
    return _hash(16, seed, purpose, *parts)


def _hash(size: int, seed: int, purpose: str, *parts: int) -> int:
    """A hash of `size` bytes."""
    text = "/".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size).digest(), "big")
