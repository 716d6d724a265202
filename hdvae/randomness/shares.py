"""How a batch is shared out among workers: in whole blocks of images, each with random numbers of its own."""

from __future__ import annotations

from hdvae.errors import InputError

BLOCK = 16
"""Images that share a random generator. A worker's share of a batch is a multiple of it, or the whole batch."""


def can_share(batch_size: int, workers: int) -> bool:
    """Whether so many workers can share a batch evenly, in whole blocks.

    >>> can_share(64, 2), can_share(48, 2), can_share(5, 1)
    (True, False, True)
    """
    return workers == 1 or batch_size % (BLOCK * workers) == 0


def check_shares(batch_size: int, workers: int) -> None:
    """See that so many workers can share a batch.

    Raises:
        InputError: they cannot; names the nearest sizes that they can.
    """
    if not can_share(batch_size, workers):
        unit = BLOCK * workers
        below = batch_size // unit * unit
        near = f"{below} or {below + unit}" if below else f"{unit}"
        raise InputError(
            f"training.batch_size is {batch_size}, but {workers} workers share multiples of {unit}: take {near}"
        )
