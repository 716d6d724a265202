"""The live page's server: files of the page, and studies as JSON. It only reads, and answers this machine only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from hdvae.errors import InputError
from hdvae_platform.search.trials import DATABASE_FAULTS
from hdvae_platform.store.places import redacted
from hdvae_platform.web.guard import guard, read_only
from hdvae_platform.web.live import Live

FILES = {
    "index.html": "text/html",
    "live.css": "text/css",
    "live.js": "text/javascript",
    "charts.js": "text/javascript",
}
"""The files of the page, and what they are."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Headers of every answer: the page loads nothing but its own files, and no other page shows it in a frame."""


def page_of(study: str | None) -> str:
    """The path of a study's page, or of the list of studies."""
    return "/" if study is None else f"/studies/{study}"


def live_app(live: Live) -> web.Application:
    """The application: `/` lists the studies, `/studies/NAME` shows one; both ask `/api/…` for what they show."""
    app = web.Application(middlewares=[_headers, guard, read_only])

    async def studies(request: web.Request) -> web.Response:
        return await _answer(live.studies)

    async def study(request: web.Request) -> web.Response:
        return await _answer(lambda: live.study(request.match_info["name"], request.query.get("metric")))

    app.router.add_get("/api/studies", studies)
    app.router.add_get("/api/studies/{name}", study)
    for path in ("/", "/studies/{name}"):
        app.router.add_get(path, _file("index.html"))
    for name in FILES:
        app.router.add_get(f"/{name}", _file(name))
    return app


async def _answer(ask: Callable[[], Any]) -> web.Response:
    """What `ask` returns as JSON, or its fault in words; it reads files, so it has a thread of its own."""
    try:
        return web.json_response(await asyncio.to_thread(ask))
    except InputError as fault:
        return web.json_response({"error": str(fault)}, status=404)
    except (OSError, *DATABASE_FAULTS) as fault:
        return web.json_response({"error": redacted(str(fault).strip().splitlines()[0])}, status=503)


def _file(name: str) -> Handler:
    body = resources.files("hdvae_platform.web").joinpath("static", name).read_bytes()

    async def send(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=FILES[name], charset="utf-8")

    return send


@web.middleware
async def _headers(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        answer = await handler(request)
    except web.HTTPException as refused:
        refused.headers.update(HEADERS)
        raise
    answer.headers.update(HEADERS)
    return answer
