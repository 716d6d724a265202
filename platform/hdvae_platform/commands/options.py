"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform.store.storage import write_atomically

home_option = click.option(
    "--home",
    envvar="HDVAE_HOME",
    default="runs",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of all local files: databases, checkpoints, data. [env: HDVAE_HOME]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
run_argument = click.argument("run", metavar="RUN")
RUN_HELP = (
    "RUN is STUDY/TRIAL/SEED (such as first/2/0), STUDY/best, an MLflow run id, a registered model "
    "(models:/STUDY/latest), or the folder of a run or of its checkpoints. An existing folder wins over other forms."
)
"""What a command that takes a RUN says about it in its help text."""
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field of the file, e.g. training.steps=100; may be repeated.",
)


def to_stderr(line: str) -> None:
    """Print a line that is no part of a result."""
    click.echo(line, err=True)


def prepare_folder(out: Path) -> None:
    """Make the folder of `--out`, and check that it can be written before anything is computed.

    Raises:
        InputError: it cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / ".probe", b"")
        (out / ".probe").unlink()
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from None
