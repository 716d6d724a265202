"""`hdvae study stop`: ask the driver of a study to stop."""

from __future__ import annotations

from pathlib import Path

import click

from hdvae_platform.commands.options import home_option
from hdvae_platform.commands.study.options import insecure_option, remote_option
from hdvae_platform.commands.study.remote import run_remotely
from hdvae_platform.running.status import study_state
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records


@click.command()
@click.argument("name")
@remote_option
@insecure_option
@home_option
def stop(name: str, address: str | None, insecure: bool, home: Path) -> int:
    """Ask the process that runs a study to stop; `hdvae study run` continues it later."""
    if address is not None:
        return run_remotely(address, insecure, "study", "stop", name)
    places = Places.known(home, "database")
    records = Records(places.database)
    state = study_state(places, records.known_study(name)).state
    if state != "running":
        click.echo(f"{name} is not running ({state})")
        return 0
    records.ask_to_stop(name)
    click.echo(f"{name} was asked to stop and will do so within seconds")
    return 0
