"""`hdvae study list`: the studies of the study database."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.display.text import table
from hdvae_platform.running.status import study_state
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records


@click.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List the studies of the study database."""
    places = Places.known(home, "database")
    studies = [study_state(places, record) for record in Records(places.database).studies()]
    if as_json:
        click.echo(json.dumps([one.summary() for one in studies], indent=1))
    elif not studies:
        click.echo(f"no studies in {home}; start one with `hdvae study run FILE.yaml`")
    else:
        rows = [
            [one.study, one.state, f"{one.complete}/{one.total}", str(one.pruned), str(one.failed), one.claim]
            for one in studies
        ]
        click.echo(table(["study", "state", "runs done", "pruned", "failed", "claim"], rows))
