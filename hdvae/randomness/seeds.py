"""Seeds of random numbers, one for each purpose."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str, *parts: int) -> int:
    """A 63-bit seed for one purpose. It is a hash, so that neighbouring seeds and steps are unrelated.

    >>> derive(0, "order", 1) == derive(0, "order", 1), derive(0, "order", 1) == derive(0, "order", 2)
    (True, False)
    """
    text = "/".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
