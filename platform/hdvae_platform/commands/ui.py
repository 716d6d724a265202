"""`hdvae ui`: a live page of each study, and the web pages of MLflow and Optuna, served to this machine only."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option
from hdvae_platform.store.places import UI_PORT, Places, redacted
from hdvae_platform.web.live import Live
from hdvae_platform.web.proxy import TOKEN, proxy
from hdvae_platform.web.server import live_app, page_of
from hdvae_platform.web.serving import serving

START_LIMIT = 180.0
"""Seconds within which a page must answer."""


@click.command()
@click.argument("name", required=False)
@click.option(
    "--live-port",
    type=click.IntRange(1, 65535),
    default=5050,
    show_default=True,
    help="Port of the live page; another one is used if it is taken.",
)
@click.option(
    "--mlflow-port",
    type=click.IntRange(1, 65535),
    default=UI_PORT,
    show_default=True,
    help="Port of MLflow's page; another one is used if it is taken.",
)
@click.option(
    "--optuna-port",
    type=click.IntRange(1, 65535),
    default=8080,
    show_default=True,
    help="Port of Optuna's page; another one is used if it is taken.",
)
@home_option
def ui(name: str | None, live_port: int, mlflow_port: int, optuna_port: int, home: Path) -> None:
    """Open a live page of the study NAME, or a list of all studies, and the web pages of MLflow and Optuna.

    The live page shows a study as it runs. Ctrl-C or SIGTERM closes all pages.
    """
    places = Places.known(home, "database")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT may be ignored; SIGTERM would leave the pages running
        signal.signal(number, signal.default_int_handler)
    live = Live(places)
    if name is not None:
        live.study(name)
    ended = None
    with ExitStack() as stack:
        try:
            address = stack.enter_context(serving(live_app(live), live_port))
            click.echo(f"Live    {address}{page_of(name)}")
            pages = _Pages(stack, places)
            if places.tracking.startswith("http"):
                click.echo(f"MLflow  {redacted(places.tracking).rstrip('/')}/{_place_in_mlflow(places, name)}")
            else:
                place, token = _place_in_mlflow(places, name), secrets.token_urlsafe()
                pages.open("MLflow", _mlflow, mlflow_port, token, f"/?{TOKEN}={token}{place}")
            pages.open("Optuna", _optuna, optuna_port)
            click.echo("Ctrl-C closes all")
            ended = pages.wait()
        except KeyboardInterrupt:
            pass  # which is how a user closes the pages
    if ended is not None:
        raise InputError(f"{ended}'s page ended unexpectedly")
    click.echo("closed")


class _Pages:
    """The pages of other programs, each a process that listens at a socket in a private folder, behind the guard.

    Args:
        stack: closes them.
        places: where everything lives.
    """

    def __init__(self, stack: ExitStack, places: Places) -> None:
        self._stack, self._places = stack, places
        self._folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hdvae-ui-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def open(
        self, name: str, command: Callable[[Places, str], list[str]], port: int, token: str | None = None, at: str = ""
    ) -> None:
        """Start a page, wait until it answers, serve it at a port, and print its address.

        Args:
            name: of the page.
            command: its command line, for a socket.
            port: where it is served, if the port is free.
            token: what lets a browser change something on it; None if nothing can be changed.
            at: the place on the page.

        Raises:
            InputError: the page ended, or does not answer within `START_LIMIT` seconds.
        """
        path = f"{self._folder}/{name}"
        with tempfile.TemporaryFile() as log:
            page = subprocess.Popen(
                command(self._places, path), env=_environment(self._places), stdout=log, stderr=subprocess.STDOUT
            )
            self._stack.callback(_close, page)
            self._processes[name] = page
            limit = time.monotonic() + START_LIMIT
            while not _answers(path):
                if page.poll() is not None or time.monotonic() > limit:
                    how = "did not start" if page.poll() is not None else f"does not answer after {START_LIMIT:.0f} s"
                    raise InputError(f"{name}'s page {how}: {_last_line(log)}")
                time.sleep(0.2)
        address = self._stack.enter_context(serving(proxy(path, token), port))
        click.echo(f"{name}  {address}{at}")

    def wait(self) -> str:
        """Wait until a page ends; which one it was."""
        while True:
            for name, page in self._processes.items():
                if page.poll() is not None:
                    return name
            time.sleep(0.5)


def _close(page: subprocess.Popen[bytes]) -> None:
    page.terminate()
    page.wait()


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return redacted(lines[-1]) if lines else "it printed nothing"


def _place_in_mlflow(places: Places, name: str | None) -> str:
    """The end of the address of MLflow's page with the runs of a study, or of all; empty if MLflow does not answer."""
    from hdvae_platform.tracking.client import Client
    from hdvae_platform.tracking.faults import Unreachable

    try:
        client = Client(places)  # makes the database of a study that has only begun, without disturbing its driver
        return f"#{client.runs_page(name)}"
    except Unreachable:
        return ""


def _mlflow(places: Places, path: str) -> list[str]:
    artifacts = ["--default-artifact-root", places.artifacts] if places.artifacts else []
    return [sys.executable, "-m", "mlflow", "server", *artifacts, "--workers", "1", "--uvicorn-opts", f"--uds {path}"]


def _optuna(places: Places, path: str) -> list[str]:
    return [sys.executable, "-m", "hdvae_platform.search.optuna_page", path]


def _environment(places: Places) -> dict[str, str]:
    """The environment of the pages.

    It holds the addresses of the databases, because every user of a machine can read its command lines. It turns off
    MLflow's job execution, half a dozen processes that nothing here uses.
    """
    addresses = {"MLFLOW_BACKEND_STORE_URI": places.tracking, "HDVAE_STUDY_DB": places.database}
    return {**os.environ, **addresses, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        return probe.connect_ex(path) == 0
