"""The live page's server over HTTP."""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlsplit

import pytest

from hdvae_platform.web.live import Live
from hdvae_platform.web.server import FILES, live_app, page_of
from hdvae_platform.web.serving import serving


@pytest.fixture
def ask(driven):
    """Ask the server of a store with one study."""
    study = driven({"seeds": [0]})
    study.train(-3.0, -2.0)
    with serving(live_app(Live(study.places)), 0) as address:

        def request(path, method="GET", **headers):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            return answer, body

        yield request


def test_pages_files_and_data(ask):
    for path in (page_of(None), page_of("small"), *(f"/{name}" for name in FILES)):
        answer, body = ask(path)
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert body
    assert b'<script type="module" src="/live.js">' in ask("/")[1]
    assert json.loads(ask("/api/studies")[1])[0]["study"] == "small"
    answer, body = ask("/api/studies/small?metric=valid/kl")
    assert (answer.headers["Content-Type"], json.loads(body)["metric"]) == (
        "application/json; charset=utf-8",
        "valid/kl",
    )
    assert ask("/", "HEAD")[0].status == 200


def test_what_is_not_there(ask):
    answer, body = ask("/api/studies/smal")
    assert answer.status == 404
    assert "did you mean 'small'?" in json.loads(body)["error"]
    answer, body = ask("/api/studies/%3Cscript%3E")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json; charset=utf-8")
    for path in ("/live.py", "/static/live.css", "/..%2f..%2fpyproject.toml", "/studies/a/b"):
        answer, _ = ask(path)
        assert (answer.status, answer.headers["X-Content-Type-Options"]) == (404, "nosniff")


def test_other_hosts_and_sites_are_refused(ask):
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1]", ""):
        for path in ("/", "/api/studies", "/live.js"):
            assert ask(path, Host=host)[0].status == 403, host
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"):
        assert ask("/api/studies", Origin=origin)[0].status == 403, origin
    assert ask("/", Host="localhost:9000")[0].status == 200, "a tunnel may have another port"
    assert ask("/api/studies", Host="127.0.0.1:80", Origin="http://127.0.0.1:80")[0].status == 200


def test_nothing_can_be_changed(ask):
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        for path in ("/", "/api/studies/small"):
            answer, _ = ask(path, method)
            assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD"), method


def test_a_database_that_is_away_is_told(ask, driven, monkeypatch):
    def away(*arguments):
        raise OSError("no answer from postgresql://me:secret@host/db")

    monkeypatch.setattr(Live, "study", away)
    answer, body = ask("/api/studies/small")
    assert (answer.status, json.loads(body)["error"]) == (503, "no answer from postgresql://…@host/db")
