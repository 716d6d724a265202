"""Arguments and options that several commands of `hdvae study` share."""

from __future__ import annotations

from pathlib import Path

import click

file_argument = click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml")
insecure_option = click.option("--insecure", is_flag=True, help="Accept a Ray cluster that asks for no token.")
retry_option = click.option(
    "--retry-failed", is_flag=True, help="Start failed runs again, from their latest checkpoints."
)
accept_option = click.option(
    "--accept-code-change",
    is_flag=True,
    help="Continue a study that was run with other code before; the change is recorded.",
)
remote_option = click.option(
    "--address", metavar="http://HEAD:8265", help="Ask the cluster with this job server, to which it was submitted."
)
