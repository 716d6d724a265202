"""A page behind the guard, over HTTP: what reaches it, and what does not."""

from __future__ import annotations

import http.client
import threading
from urllib.parse import urlsplit

import pytest

from hdvae_platform.search.optuna_page import Server
from hdvae_platform.web.proxy import proxy
from hdvae_platform.web.serving import serving


@pytest.fixture
def page(tmp_path):
    """A page at a socket that says what it was asked; its socket, and all that it was asked."""
    asked = []

    def answer(environ, start):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        query = environ["QUERY_STRING"]
        asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}{'?' * bool(query)}{query} {body.decode()}")
        start("201 Made", [("X-Page", "one"), ("Content-Type", "text/plain"), ("Set-Cookie", "own=1")])
        return [asked[-1].encode(), b" and more"]

    path = str(tmp_path / "page")
    with Server.serving(path, answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield path, asked
        server.shutdown()
        thread.join()


def ask(address, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    read = answer.read().decode()
    connection.close()
    return answer, read


def test_a_page_that_only_shows(page):
    path, asked = page
    with serving(proxy(path, None), 0) as address:
        answer, body = ask(address, "/a/b%2Fc?d=%20e")
        assert (answer.status, answer.reason, body) == (201, "Made", "GET /a/b/c?d=%20e  and more")
        assert (answer.headers["X-Page"], answer.headers["Content-Type"]) == ("one", "text/plain")
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert ask(address, "/api/studies/1", method, "x")[0].status == 405
        assert ask(address, "/", Host="evil.example")[0].status == 403
        assert ask(address, "/", Origin="http://evil.example")[0].status == 403
        assert asked == ["GET /a/b/c?d=%20e "]


def test_a_page_that_is_changed_with_the_cookie_of_the_printed_address_only(page):
    path, asked = page
    with serving(proxy(path, "secret"), 0) as address:
        assert ask(address, "/", "POST", "x")[0].status == 403
        assert ask(address, "/?token=secret", "POST", "x")[0].status == 403
        assert ask(address, "/?token=wrong")[0].status == 201
        answer, _ = ask(address, "/a?token=secret&b=1")
        assert (answer.status, answer.headers["Location"]) == (303, "/a?b=1")
        cookie, *how = answer.headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(how)
        assert asked == ["GET /?token=wrong "]
        assert ask(address, "/", "POST", "whole", Cookie=cookie)[1] == "POST / whole and more"
        assert ask(address, "/", "POST", "x", Cookie=cookie, Origin=address)[0].status == 201
        assert ask(address, "/", "POST", "x", Cookie=cookie, Origin="http://127.0.0.1:1")[0].status == 403
        assert ask(address, "/", "DELETE", Cookie=cookie.replace("secret", "sécret"))[0].status == 403
        assert ask(address, "/", "POST", "x" * 3_000_000, Cookie=cookie)[0].status == 201
        assert len(asked) == 4


def test_a_page_that_is_gone(tmp_path):
    with serving(proxy(str(tmp_path / "nothing"), None), 0) as address:
        assert ask(address, "/")[0].status == 502
