"""`hdvae study delete`: delete a study everywhere."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option
from hdvae_platform.running.deletion import delete_study
from hdvae_platform.running.status import study_state
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@home_option
def delete(name: str, yes: bool, home: Path) -> None:
    """Delete a study that is not running: its MLflow runs, its folder on the storage, and its records."""
    places = Places.known(home, "database")
    record = Records(places.database).known_study(name)
    study = study_state(places, record)
    if not yes:
        _confirm(f"delete {name} ({study.state}, {study.complete} of {study.total} runs done)?")
    done = delete_study(places, record)
    click.echo(
        f"deleted {name}: {done.folder}, its records and {done.mlflow_runs} MLflow runs (`mlflow gc` clears them)"
    )


def _confirm(question: str) -> None:
    """Ask the user.

    Raises:
        InputError: the command is not run in a terminal.
        Abort: the user says no.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} give --yes to confirm it without a terminal")
    click.confirm(question, abort=True)
