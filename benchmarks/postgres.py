"""A real PostgreSQL server for tests: started on a free loopback port, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
from psycopg import sql

START = 30
"""Seconds that the server may take to answer."""


def binaries() -> Path | None:
    """The folder with initdb and postgres; distributions keep it off the PATH."""
    found = shutil.which("initdb")
    folders = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    return next((folder for folder in folders if (folder / "postgres").exists()), None)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """The server; it can be killed and started again on the same data.

    Args:
        folder: with initdb and postgres.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.port = folder, free_port()
        # PostgreSQL refuses to run as root: it becomes the user that its package makes.
        self._user = "postgres" if os.geteuid() == 0 else None
        self._data = Path(tempfile.mkdtemp(prefix="hdvae-postgres-"))
        if self._user is not None:
            shutil.chown(self._data, self._user, self._user)
        self._run("initdb", "-D", str(self._data / "db"), "-U", "postgres", "-A", "trust", "--no-sync")
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self._folder / program), *arguments], check=True, capture_output=True, user=self._user, cwd=self._data
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        limit = time.monotonic() + START
        while time.monotonic() < limit:
            if self.process is None or self.process.poll() is not None:  # after a kill its old children are in the way
                self._spawn()
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            time.sleep(0.1)
        raise TimeoutError("the PostgreSQL server did not start")

    def _spawn(self) -> None:
        arguments = ["-D", str(self._data / "db"), "-p", str(self.port), "-k", str(self._data), "-h", "127.0.0.1"]
        arguments += ["-c", "max_connections=500"]  # many tests share one server, and a process keeps what it opened
        self.process = subprocess.Popen(
            [str(self._folder / "postgres"), *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            user=self._user,
            cwd=self._data,
        )

    def connect(self) -> psycopg.Connection:
        """A connection to the server's own database."""
        return psycopg.connect(f"postgresql://postgres@127.0.0.1:{self.port}/postgres", autocommit=True)

    def database(self, name: str) -> str:
        """The SQLAlchemy URL of a new database."""
        with self.connect() as db:
            db.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"

    def user(self, name: str, password: str) -> str:
        """The SQLAlchemy URL, as this new user who needs a password, of a new database of its own."""
        with self.connect() as db:
            db.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(password)))
            db.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
            rules = self._data / "db/pg_hba.conf"
            rules.write_text(f'host all "{name}" 127.0.0.1/32 scram-sha-256\n{rules.read_text()}')
            db.execute("SELECT pg_reload_conf()")
        return f"postgresql+psycopg://{name}:{password}@127.0.0.1:{self.port}/{name}"

    def kill(self) -> None:
        """SIGKILL, as a machine that goes down; its children end when they notice."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Stop the server and remove its data."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)  # SIGTERM would wait for clients, which pool their connections
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
        shutil.rmtree(self._data, ignore_errors=True)


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server for some time.

    Raises:
        FileNotFoundError: PostgreSQL is not installed.
    """
    folder = binaries()
    if folder is None:
        raise FileNotFoundError("PostgreSQL is not installed (no initdb)")
    server = Postgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.end()
