"""Sharing of a batch among workers, in equal parts."""

from __future__ import annotations

from hdvae.errors import InputError


def can_share(batch_size: int, workers: int) -> bool:
    """Whether a number of workers can share a batch equally.

    >>> can_share(64, 2), can_share(64, 3), can_share(5, 1)
    (True, False, True)
    """
    return batch_size % workers == 0


def check_shares(batch_size: int, workers: int) -> None:
    """Check that a number of workers can share a batch.

    Raises:
        InputError: they cannot. The message names the nearest possible batch sizes.
    """
    if not can_share(batch_size, workers):
        below = batch_size // workers * workers
        near = f"{below} or {below + workers}" if below else f"{workers}"
        raise InputError(
            f"training.batch_size is {batch_size}, but {workers} workers need a multiple of {workers}: take {near}"
        )
