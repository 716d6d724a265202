"""`hdvae ui`: the web pages of MLflow and Optuna on the study store, served to this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option
from hdvae_platform.store.places import UI_HOST, UI_PORT, Places, redacted

START_LIMIT = 60.0
"""Seconds within which a page must answer."""
OPTUNA = """
import os, sys
from optuna_dashboard import run_server
run_server(os.environ["HDVAE_STUDY_DB"], host=sys.argv[1], port=int(sys.argv[2]))
"""
"""Starts Optuna's page. Its own command takes the database on the command line only, which other users can read."""


@click.command()
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
def ui(mlflow_port: int, optuna_port: int, home: Path) -> None:
    """Open the web pages of MLflow and Optuna on the study store; Ctrl-C or SIGTERM closes them."""
    places = Places.known(home, "tracking")
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT may be ignored; SIGTERM would leave the pages running
        signal.signal(number, signal.default_int_handler)
    pages: dict[str, subprocess.Popen[bytes]] = {}
    try:
        if places.tracking.startswith("http"):
            click.echo(f"MLflow  {redacted(places.tracking)}")
        else:
            port = _free(mlflow_port)
            _start(pages, "MLflow", port, _mlflow(places, port), places)
        port = _free(optuna_port)
        _start(pages, "Optuna", port, _optuna(port), places)
        click.echo("Ctrl-C closes both")
        while all(page.poll() is None for page in pages.values()):
            time.sleep(0.5)
        ended = next(name for name, page in pages.items() if page.poll() is not None)
        raise InputError(f"{ended}'s page ended unexpectedly")
    except KeyboardInterrupt:
        click.echo("closed")
    finally:
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
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((UI_HOST, port))
        except OSError:
            probe.bind((UI_HOST, 0))
        return int(probe.getsockname()[1])


def _start(pages: dict[str, subprocess.Popen[bytes]], name: str, port: int, command: list[str], places: Places) -> None:
    """Start a page and wait until it answers.

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
    click.echo(f"{name}  http://{UI_HOST}:{port}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((UI_HOST, port)) == 0
