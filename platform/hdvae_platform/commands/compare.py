"""`hdvae compare`: the arms of studies side by side."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hdvae_platform import comparison
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.places import Places
from hdvae_platform.tracking import Client


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--by", multiple=True, metavar="PATH", help="Group by this setting instead of all that were varied.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Show this metric; may be repeated.")
@home_option
@json_option
def compare(names: tuple[str, ...], by: tuple[str, ...], metrics: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Compare the arms of studies: means over seeds, and the differences between arms."""
    compared = comparison.arms(Client(Places.under(home)), names, by)
    full = [comparison.known_metric(compared, metric) for metric in metrics]
    if as_json:
        click.echo(json.dumps(comparison.as_json(names, compared, full), indent=1))
        return
    click.echo(comparison.as_table(compared, full))
    for metric in full or ["valid/elbo", "valid/relaxation_bias"]:
        differences = comparison.differences_table(compared, metric)
        if differences:
            click.echo(f"\n{differences}")
