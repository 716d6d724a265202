"""`hdvae compare`: the arms of studies side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform import comparison
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.places import Places
from hdvae_platform.storage import write_atomically
from hdvae_platform.tracking import Client


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--by", multiple=True, metavar="PATH", help="Group by this setting instead of all that were varied.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Show this metric; may be repeated.")
@click.option(
    "--format", "form", default="terminal", show_default=True, type=click.Choice(["terminal", "md"]), help="As what."
)
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Write here instead of printing.")
@home_option
@json_option
def compare(
    names: tuple[str, ...],
    by: tuple[str, ...],
    metrics: tuple[str, ...],
    form: str,
    out: Path | None,
    home: Path,
    as_json: bool,
) -> None:
    """Compare the arms of studies: means over seeds, the differences between arms, and confirmed winners."""
    client = Client(Places.under(home))
    compared, confirmed = comparison.arms(client, names, by), comparison.confirmations(client, names)
    full = [comparison.known_metric(compared, metric) for metric in metrics]
    if as_json:
        text = json.dumps(comparison.as_json(names, compared, full, confirmed), indent=1)
    elif form == "md":
        shown = full or list(comparison.DIFFERENCES)
        text = comparison.as_markdown(names, compared, shown, _command(names, by, metrics), confirmed)
    else:
        text = _terminal(compared, full, confirmed)
    if out is None:
        click.echo(text.rstrip("\n"))
        return
    try:
        write_atomically(out, (text.rstrip("\n") + "\n").encode())
    except OSError as fault:
        raise InputError(f"--out {out}: cannot be written: {fault.strerror}") from None
    click.echo(str(out))


def _terminal(
    compared: Sequence[comparison.Arm], metrics: Sequence[str], confirmed: Sequence[comparison.Confirmation]
) -> str:
    tables = [comparison.as_table(compared, metrics)]
    tables += [comparison.differences_table(compared, metric) for metric in metrics or comparison.DIFFERENCES]
    tables.append(comparison.confirmation_table(confirmed))
    return "\n\n".join(filter(None, tables))


def _command(names: Sequence[str], by: Sequence[str], metrics: Sequence[str]) -> str:
    options = [f"--by {path}" for path in by] + [f"--metric {metric}" for metric in metrics]
    return " ".join(["hdvae compare", *names, *options, "--format md"])
