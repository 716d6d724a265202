"""MLflow's settings are in force in a command, in a process whose environment has none of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import hdvae_platform
from hdvae.errors import InputError
from hdvae_platform.tracking.environment import DEFAULTS, REQUIRED, configure, configured

CODE = """
import http.server, json, logging, sys, threading
from hdvae_platform import cli

cli.run(["--version"])
imported = "mlflow" in sys.modules
import git, mlflow, mlflow.store.db.utils
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.telemetry import get_telemetry_client
from mlflow.exceptions import MlflowException

asked = []
class Busy(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        info = {"run_id": "r", "run_name": "n", "experiment_id": "0"}
        body = json.dumps({"run": {"info": info, "data": {}}, "run_info": info}).encode()
        self.send_response(503 if "create" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = mlflow.MlflowClient(f"http://me:secret@127.0.0.1:{server.server_port}")
try:
    client.create_run("0")
    raise SystemExit("a busy server was no fault")
except MlflowException:
    creations = len(asked)
client.set_terminated("r")
print(json.dumps({
    "imported": imported,
    "requests": creations,
    "telemetry": get_telemetry_client() is not None,
    "bar": MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get(),
    "levels": [logging.getLogger(name).level for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc")],
}))
"""


def clean() -> dict[str, str]:
    """This process's environment without what MLflow reads; its searches for git find none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GIT_PYTHON_"))}
    return {**kept, "PATH": "/nowhere"}


def test_a_command_finds_them_in_force():
    done = subprocess.run([sys.executable, "-c", CODE], env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "imported": False,
        "requests": 1,
        "telemetry": False,
        "bar": False,
        "levels": [30, 30, 30],
    }
    assert "secret" not in done.stdout + done.stderr  # nor the address of the run that ended


def test_only_the_defaults_give_way_to_the_environment(monkeypatch):
    for name in (*REQUIRED, *DEFAULTS):
        monkeypatch.setenv(name, "mine")
    configure()
    assert {name: os.environ[name] for name in REQUIRED} == REQUIRED
    assert all(os.environ[name] == "mine" for name in DEFAULTS)


def test_for_a_while_only(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT")
    before = dict(os.environ)
    with configured():
        assert REQUIRED.items() <= os.environ.items()
    assert dict(os.environ) == before


def test_loading_leaves_the_environment_alone(places, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    before = dict(os.environ)
    with pytest.raises(InputError, match="no study"):
        hdvae_platform.results("none", places.home)
    with pytest.raises(InputError):
        hdvae_platform.load("none", places.home)
    assert dict(os.environ) == before
