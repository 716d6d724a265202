"""`hdvae reproduce`: tables and figures of the paper, ours beside the paper's numbers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hdvae.errors import InputError, nearest
from hdvae_platform.commands.options import home_option, json_option, prepare_folder
from hdvae_platform.paper.budgets import TARGETS, budget_named
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import write_atomically

if TYPE_CHECKING:
    from hdvae_platform.paper.reproduce import Reproduction


@click.command()
@click.argument("target", metavar="|".join(TARGETS))
@click.option("--budget", default="smoke", show_default=True, metavar="smoke|cpu|full", help="How much of it to run.")
@click.option(
    "--address",
    default="local",
    envvar="RAY_ADDRESS",
    show_default=True,
    help="The Ray cluster to run on, as for `hdvae study run`.",
)
@click.option("--insecure", is_flag=True, help="Use a Ray cluster that accepts commands without authentication.")
@click.option("--retry-failed", is_flag=True, help="Start failed runs again, from their checkpoints.")
@click.option("--accept-code-change", is_flag=True, help="Continue studies begun with other code.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder for tables and figures.  [default: HOME/reproductions/TARGET-BUDGET]",
)
@home_option
@json_option
def reproduce(
    target: str,
    budget: str,
    address: str,
    insecure: bool,
    retry_failed: bool,
    accept_code_change: bool,
    out: Path | None,
    home: Path,
    as_json: bool,
) -> int:
    """Run the studies of a table or figure of the paper, and print our numbers beside the paper's.

    Given again, the command continues where it was stopped. Budgets: `smoke` takes some minutes on two cores and
    downloads nothing; `cpu` takes at most three hours on two cores, with a smaller network and fewer steps; `full` is
    the paper's and needs GPUs. Figure 1 is drawn from the study of table 4, figure 2 from the studies of table 1.
    """
    from hdvae_platform.paper.reproduce import reproduce as run
    from hdvae_platform.running.launch import Launch

    if target not in TARGETS:
        raise InputError(f"{target} cannot be reproduced{nearest(target, TARGETS)}")
    chosen, places = budget_named(budget), Places.under(home)
    folder = out or places.home / "reproductions" / f"{target}-{budget}"
    launch = Launch(address, insecure=insecure, retry_failed=retry_failed, accept_code_change=accept_code_change)
    if out is not None:
        prepare_folder(out)
    stream = sys.stderr if as_json else sys.stdout  # looked up now: while Ray runs, standard output is a file
    done = run(target, chosen, places, lambda line: click.echo(line, file=stream), launch)
    prepare_folder(folder)
    files = _write(folder, done)
    if as_json:
        click.echo(json.dumps({**done.plain(), "files": files}, indent=1))
    else:
        click.echo(f"\n{done.text()}\n")
        click.echo("\n".join(files))
    if done.unfinished:
        click.echo("stopped before the end; the same command continues", err=True)
        return 130
    return 1 if done.failed else 0


def _write(folder: Path, done: Reproduction) -> list[str]:
    """Write the figures, the tables as Markdown and everything as JSON; return the paths."""
    files = {
        **done.files,
        f"{done.target}.md": f"{done.markdown()}\n".encode(),
        f"{done.target}.json": json.dumps(done.plain(), indent=1).encode(),
    }
    for name, data in files.items():
        write_atomically(folder / name, data)
    return [str(folder / name) for name in files]
