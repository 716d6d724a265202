"""Who may ask the pages of `hdvae ui`: programs of this machine, and no other site that the browser has open."""

from __future__ import annotations

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

NAMES = ("127.0.0.1", "localhost")
"""The names of this machine. A site whose name is made to point here (DNS rebinding) is refused by its own name."""
READS = (hdrs.METH_GET, hdrs.METH_HEAD)
"""Methods that change nothing."""


def refusal(request: web.Request) -> str | None:
    """Why a request is refused, whatever it asks for; None if it is not.

    Its host must be this machine by name, at any port: a tunnel may have another. A request that states which site made
    it must come from this one.
    """
    host = request.headers.get(hdrs.HOST, "")
    if host.partition(":")[0] not in NAMES:
        return "this page is for this machine only: open it as http://127.0.0.1"
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and origin != f"http://{host}":
        return "this page answers no other site"
    return None


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what comes from elsewhere."""
    why = refusal(request)
    if why is not None:
        raise web.HTTPForbidden(text=why)
    return await handler(request)


@web.middleware
async def read_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what might change something."""
    if request.method not in READS:
        raise web.HTTPMethodNotAllowed(request.method, READS, text="this page only shows")
    return await handler(request)
