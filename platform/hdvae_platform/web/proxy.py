"""The pages of MLflow and Optuna behind the guard. They listen at sockets in a private folder, at no port."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator, Mapping

from aiohttp import ClientConnectionError, ClientSession, ClientTimeout, DummyCookieJar, UnixConnector, hdrs, web
from aiohttp.typedefs import Handler, Middleware

from hdvae_platform.web.guard import READS, guard, read_only

TOKEN = "token"  # noqa: S105 - the name of the query
"""The query of a printed address by which a browser gets the cookie."""
CHUNK = 1 << 16
"""Bytes that are passed on at a time."""
_OF_A_CONNECTION = {
    hdrs.CONNECTION,
    hdrs.KEEP_ALIVE,
    hdrs.PROXY_AUTHENTICATE,
    hdrs.PROXY_AUTHORIZATION,
    hdrs.TE,
    hdrs.TRAILER,
    hdrs.TRANSFER_ENCODING,
    hdrs.UPGRADE,
}
"""Headers of one connection, which are not passed on."""
_SESSION = web.AppKey("session", ClientSession)


def proxy(socket: str, token: str | None) -> web.Application:
    """An application that passes requests on to a page.

    Args:
        socket: where the page listens.
        token: what a request must show to change anything; None if nothing can be changed.
    """
    app = web.Application(middlewares=[guard, read_only if token is None else _with_token(token)])

    async def session(app: web.Application) -> AsyncIterator[None]:
        async with ClientSession(
            connector=UnixConnector(socket),
            auto_decompress=False,
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=None),
        ) as opened:
            app[_SESSION] = opened
            yield

    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", _forward)
    return app


def _with_token(token: str) -> Middleware:
    """Lets everything pass with the token in a cookie, without it what reads.

    A browser gets the cookie by the address that was printed. Requests that another site makes do not carry it.
    """

    def is_right(shown: str) -> bool:
        return hmac.compare_digest(shown.encode(errors="replace"), token.encode())

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        cookie = f"hdvae_{request.transport.get_extra_info('sockname')[1]}" if request.transport else ""
        if request.method in READS and is_right(request.query.get(TOKEN, "")):
            answer = web.Response(status=303, headers={hdrs.LOCATION: str(request.rel_url.without_query_params(TOKEN))})
            answer.set_cookie(cookie, token, httponly=True, samesite="Strict")
            return answer
        if request.method not in READS and not is_right(request.cookies.get(cookie, "")):
            raise web.HTTPForbidden(text="open the address that `hdvae ui` printed: only it may change anything")
        return await handler(request)

    return check


async def _forward(request: web.Request) -> web.StreamResponse:
    """Pass a request on, and its answer back."""
    asked = request.app[_SESSION].request(
        request.method,
        request.url,  # whose host and port are those of this server: the connection goes to the socket all the same
        headers=_passed_on(request.headers),
        data=request.content if request.can_read_body else None,
        allow_redirects=False,
    )
    try:
        async with asked as told:
            answer = web.StreamResponse(status=told.status, reason=told.reason, headers=_passed_on(told.headers))
            await answer.prepare(request)
            async for chunk in told.content.iter_chunked(CHUNK):
                await answer.write(chunk)
            await answer.write_eof()
            return answer
    except ClientConnectionError as fault:
        raise web.HTTPBadGateway(text="the page does not answer") from fault


def _passed_on(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.title() not in _OF_A_CONNECTION]
