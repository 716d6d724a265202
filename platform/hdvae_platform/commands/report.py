"""`hdvae report`: a study as one HTML page."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.report.writing import write_report
from hdvae_platform.store.layout import report_folder
from hdvae_platform.store.places import Places


@click.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the report.  [default: reports/NAME in the home]",
)
@click.option(
    "--plot",
    "plots",
    multiple=True,
    metavar="METRIC:SETTING",
    help="Also draw this metric against this varied setting, e.g. kl:training.freebits; may be repeated.",
)
@home_option
@json_option
def report(name: str, out: Path | None, plots: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Write the report of a study: one HTML page that needs no network, and its figures as files.

    Both are also logged to MLflow. The verdicts on the expectations are a look at the data, which is recorded.
    """
    places = Places.known(home, "database")
    done = write_report(places, name, out or report_folder(places.home, name), plots)
    for note in done.notes:
        click.echo(note, err=True)
    if as_json:
        paths = {"report": str(done.page), "figures": list(map(str, done.figures))}
        click.echo(json.dumps({**paths, "logged": done.logged}, indent=1))
    else:
        click.echo(str(done.page))
