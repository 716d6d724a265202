"""How a process of Ray learns that it is to end soon: by SIGTERM, or because its machine is to be taken away.

Ray calls the second draining a node. Its autoscalers announce it, as does `ray drain-node`.
"""

from __future__ import annotations

import ctypes
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray

from hdvae_platform.cluster import ray_internals

_PENDING_CALLS: list[object] = []
"""Calls that the main thread was asked to make; Python does not keep them alive itself."""


@contextmanager
def leaving() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether this process is to end soon; inside, SIGTERM no longer ends it at once."""
    terminated = threading.Event()
    before: list[signal.Handlers | Callable[..., object] | int | None] = []

    def listen() -> None:
        before.append(signal.signal(signal.SIGTERM, lambda number, frame: terminated.set()))

    def restore() -> None:
        signal.signal(signal.SIGTERM, before[0])

    here = ray.get_runtime_context().get_node_id()
    _on_main_thread(listen)
    try:
        yield lambda: terminated.is_set() or here in ray_internals.draining_nodes()
    finally:
        _on_main_thread(restore)


def _on_main_thread(act: Callable[[], None]) -> None:
    """Have the main thread call a function when it next executes Python.

    Signal handlers can only be set there, and Ray trains in another thread.
    """

    def called(_: int | None) -> int:
        act()
        return 0

    call = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(called)
    _PENDING_CALLS.append(call)
    ctypes.pythonapi.Py_AddPendingCall(call, None)
