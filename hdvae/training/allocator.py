"""The memory of a process that trains: what a step frees, the next one uses."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (mallopt(3))."""


def keep_freed_memory() -> bool:
    """Have the C library keep the memory that is freed, for the rest of the process.

    By default glibc gives large tensors back to the system and gets their memory anew, page by page and filled with
    zeros, in every step. The peak of the memory stays what it is.

    Returns:
        Whether this C library can be told so; nothing has changed if not.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
