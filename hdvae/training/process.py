"""Settings of a process that trains, which make its steps faster and hold for the rest of the process."""

from __future__ import annotations

import ctypes

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's `mallopt` (mallopt(3))."""


def prepare_process() -> None:
    """Keep freed memory, and flush denormal numbers to zero.

    Call it in the thread that trains, before its first operation on tensors: the setting for denormal numbers belongs
    to a thread, and to the threads that it starts. The weights of relaxed samples at low temperatures are often
    denormal, below 1.2e-38 in float32; arithmetic with such numbers is tens of times slower on most processors, and
    they are too small to change a sum.
    """
    keep_freed_memory()
    torch.set_flush_denormal(True)  # False, and without effect, on a processor that cannot


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
