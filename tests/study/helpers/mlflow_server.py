"""A real MLflow server, forked like the commands from a process that has imported what it needs."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.postgres import free_port
from tests.study.helpers.commands import Forked

START = 90
"""Seconds that a server may take to listen."""


def started(*arguments: str) -> Forked:
    """`mlflow server` at work, in a process group of its own."""
    return Forked(_serve, *arguments)


@contextmanager
def serving(store: str, *arguments: str, port: int | None = None, wait: bool = True) -> Iterator[str]:
    """The address of a server of a store, for some time.

    Args:
        store: URL of the database.
        arguments: further ones of `mlflow server`.
        port: where it listens, by default at a free one.
        wait: whether it listens already when this begins.
    """
    port = port or free_port()
    where = ["--backend-store-uri", store, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = started(*where, *arguments)
    try:
        if wait:
            wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(port: int) -> None:
    """Wait until somebody listens at a port of this machine."""
    limit = time.monotonic() + START
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError("the MLflow server did not start")


def _serve(*arguments: str) -> None:
    """Be the server: what MLflow's command does but for starting uvicorn, which runs in this process."""
    import mlflow.server
    import uvicorn
    from mlflow.cli import cli

    def here(command: list[str], extra_env: dict[str, str], **_: object) -> None:
        assert command[1:3] == ["-m", "uvicorn"]
        os.environ.update(extra_env)
        sys.argv = ["uvicorn", *command[3:]]
        uvicorn.main()

    os.setsid()
    with Path(os.devnull).open("w") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    mlflow.server._exec_cmd = here
    cli(["server", *arguments])
