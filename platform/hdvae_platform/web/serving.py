"""Serving pages of this process's own to this machine, in a thread beside its work."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from hdvae_platform.store.places import UI_HOST

CLOSING = 2.0
"""Seconds that answers in progress get to end when a server is closed."""


def bound(port: int) -> socket.socket:
    """A socket at a port of the loopback, or at a free one if that is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((UI_HOST, port))
    except OSError:
        sock.bind((UI_HOST, 0))
    return sock


@contextmanager
def serving(app: web.Application, port: int) -> Iterator[str]:
    """Serve an application at a port of the loopback, or at a free one if that is taken; gives its address."""
    loop, sock = asyncio.new_event_loop(), bound(port)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=CLOSING)

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, sock).start()

    thread = threading.Thread(target=loop.run_forever, name=f"page at {port}", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(start(), loop).result()
        yield f"http://{UI_HOST}:{sock.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
