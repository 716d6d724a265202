"""`hdvae study export`: a study's records as Parquet files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hdvae_platform.commands.options import home_option, json_option, to_stderr
from hdvae_platform.running import export as exporting
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records


@click.command()
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new folder.")
@home_option
@json_option
def export(name: str, out: Path, home: Path, as_json: bool) -> None:
    """Write the records of a study: study.yaml, history.json, and runs, metrics and per-image values as Parquet."""
    places = Places.known(home, "database")
    record = Records(places.database).known_study(name)
    files = [str(file) for file in exporting.export(places, record, out, to_stderr)]
    click.echo(json.dumps({"study": name, "files": files}, indent=1) if as_json else "\n".join(files))
