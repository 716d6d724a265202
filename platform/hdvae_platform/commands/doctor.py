"""`hdvae doctor`: checks of this machine, its cluster, tracking server and storage, with what to fix."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.store.places import Places


@click.command()
@click.option(
    "--address",
    metavar="HOST:PORT|auto",
    help="The Ray cluster to check, instead of a Ray on this machine.",
)
@home_option
@json_option
def doctor(address: str | None, home: Path, as_json: bool) -> int:
    """Check everything that a study needs, and print OK or what to fix; the exit code is 1 if anything needs fixing."""
    from hdvae_platform.cluster.doctor import examine, plain

    findings = examine(Places.under(home), address)
    if as_json:
        click.echo(json.dumps(plain(findings), indent=1))
    else:
        for one in findings:
            click.echo(f"{one.name:<9} {'OK ' if one.ok else 'FIX'}  {one.says}")
    return 0 if all(one.ok for one in findings) else 1
