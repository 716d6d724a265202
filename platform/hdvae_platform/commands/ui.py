"""`hdvae ui`: a live page of each study, and the web pages of MLflow and Optuna, served to this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option
from hdvae_platform.store.places import UI_HOST, UI_PORT, Places, redacted
from hdvae_platform.web.live import Live
from hdvae_platform.web.server import live_app, page_of
from hdvae_platform.web.serving import bound, serving

START_LIMIT = 180.0
"""Seconds within which a page must answer."""
OPTUNA = """
import os, sys
from optuna_dashboard import run_server
run_server(os.environ["HDVAE_STUDY_DB"], host=sys.argv[1], port=int(sys.argv[2]))
"""
"""Starts Optuna's page. Its own command takes the database on the command line only, which other users can read."""


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
    pages: dict[str, subprocess.Popen[bytes]] = {}
    with ExitStack() as stack:
        stack.callback(_close, pages)
        address = stack.enter_context(serving(live_app(live), live_port))
        try:
            click.echo(f"Live    {address}{page_of(name)}")
            _open(pages, places, name, mlflow_port, optuna_port)
            click.echo("Ctrl-C closes all")
            while all(page.poll() is None for page in pages.values()):
                time.sleep(0.5)
        except KeyboardInterrupt:
            click.echo("closed")
            return
        ended = next(name for name, page in pages.items() if page.poll() is not None)
        raise InputError(f"{ended}'s page ended unexpectedly")


def _open(
    pages: dict[str, subprocess.Popen[bytes]], places: Places, name: str | None, mlflow_port: int, optuna_port: int
) -> None:
    """Start the pages of MLflow, unless it has a server, and of Optuna."""
    at = _place_in_mlflow(places, name)
    if places.tracking.startswith("http"):
        click.echo(f"MLflow  {redacted(places.tracking).rstrip('/')}{at}")
    else:
        port = _free(mlflow_port)
        _start(pages, "MLflow", port, _mlflow(places, port), places, at)
    port = _free(optuna_port)
    _start(pages, "Optuna", port, _optuna(port), places)


def _place_in_mlflow(places: Places, name: str | None) -> str:
    """The end of the address of MLflow's page with the runs of a study, or of all; empty if MLflow does not answer."""
    from hdvae_platform.tracking.client import Client
    from hdvae_platform.tracking.faults import Unreachable

    try:
        client = Client(places)  # makes the database of a study that has only begun, without disturbing its driver
        return f"/#{client.runs_page(name)}"
    except Unreachable:
        return ""


def _close(pages: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for page in pages.values():
        page.terminate()
    for page in pages.values():
        page.wait()


def _mlflow(places: Places, port: int) -> list[str]:
    artifacts = ["--default-artifact-root", places.artifacts] if places.artifacts else []
    address = ["--host", UI_HOST, "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *artifacts, *address]


def _optuna(port: int) -> list[str]:
    return [sys.executable, "-c", OPTUNA, UI_HOST, str(port)]


def _environment(places: Places) -> dict[str, str]:
    """The environment of the pages.

    It holds the addresses of the databases, because every user of a machine can read its command lines. It turns off
    MLflow's job execution, half a dozen processes that nothing here uses.
    """
    addresses = {"MLFLOW_BACKEND_STORE_URI": places.tracking, "HDVAE_STUDY_DB": places.database}
    return {**os.environ, **addresses, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _free(port: int) -> int:
    """A free port: this one, or another if it is taken."""
    with bound(port) as probe:
        return int(probe.getsockname()[1])


def _start(
    pages: dict[str, subprocess.Popen[bytes]], name: str, port: int, command: list[str], places: Places, at: str = ""
) -> None:
    """Start a page, wait until it answers, and print its address; `at` is the place on it.

    Raises:
        InputError: the page ended, or does not answer within `START_LIMIT` seconds.
    """
    with tempfile.TemporaryFile() as log:
        pages[name] = subprocess.Popen(command, env=_environment(places), stdout=log, stderr=subprocess.STDOUT)
        limit = time.monotonic() + START_LIMIT
        while not _answers(port):
            if pages[name].poll() is not None or time.monotonic() > limit:
                late = pages[name].poll() is None
                log.seek(0)
                lines = log.read().decode(errors="replace").strip().splitlines()
                said = redacted(lines[-1]) if lines else "it printed nothing"
                how = f"does not answer after {START_LIMIT:.0f} s" if late else "did not start"
                raise InputError(f"{name}'s page {how}: {said}")
            time.sleep(0.2)
    click.echo(f"{name}  http://{UI_HOST}:{port}{at}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((UI_HOST, port)) == 0
