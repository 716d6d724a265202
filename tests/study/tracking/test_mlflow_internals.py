"""The names of MLflow that it does not promise to keep: a test fails when a new version has moved one."""

from __future__ import annotations

import http.server
import importlib.util
import threading
from pathlib import Path

import pytest

from hdvae_platform.tracking import mlflow_internals


@pytest.mark.parametrize("name", mlflow_internals.CHATTY_LOGGERS)
def test_loggers(name):
    """Each is the logger of a module, or of a package whose modules have loggers of their own."""
    file = Path(importlib.util.find_spec(name).origin)
    modules = file.parent.glob("**/*.py") if file.name == "__init__.py" else [file]
    assert any("getLogger(__name__)" in module.read_text() for module in modules)


def test_a_request_carries_the_user(monkeypatch):
    """A real server that says what it was asked."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.send_header("Content-Length", "3")
            self.end_headers()
            self.wfile.write(b"9.9")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
    try:
        answer = mlflow_internals.get(f"http://127.0.0.1:{server.server_port}", "/version")
    finally:
        server.shutdown()
    assert (answer.status_code, answer.text) == (200, "9.9")
    assert asked == [("/version", "Bearer a-token")]
