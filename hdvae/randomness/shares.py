"""Sharing of a batch among workers, in whole blocks of images with one random generator each."""

from __future__ import annotations

from hdvae.errors import InputError

BLOCK = 16
"""Number of images with one random generator. The share of a worker is a multiple of it, or the whole batch."""


def can_share(batch_size: int, workers: int) -> bool:
    """Whether a number of workers can share a batch equally, in whole blocks.

    >>> can_share(64, 2), can_share(48, 2), can_share(5, 1)
    (True, False, True)
    """
    return workers == 1 or batch_size % (BLOCK * workers) == 0


def check_shares(batch_size: int, workers: int) -> None:
    """Check that a number of workers can share a batch.

    Raises:
        InputError: they cannot. The message names the nearest possible batch sizes.
    """
    if not can_share(batch_size, workers):
        unit = BLOCK * workers
        below = batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise InputError(
            f"training.batch_size is {batch_size}, but {workers} workers need a multiple of {unit}: take {near}"
        )
