"""`hdvae study`: the commands on whole studies, a module for each."""

from __future__ import annotations

import click

from hdvae_platform.commands.groups import LazyGroup

COMMANDS = {
    "check": "Validate a study file; print its runs and their cost.",
    "run": "Run a study, or continue it.",
    "submit": "Run a study as a job of a remote Ray cluster.",
    "list": "List the studies of the study database.",
    "status": "Show how far a study is, run by run.",
    "best": "Print the best trial, and write it as an experiment to train again.",
    "stop": "Stop a running study; it can be continued later.",
    "delete": "Delete a study: MLflow runs, checkpoints, records.",
    "export": "Write a study's records as Parquet files.",
}


@click.group(cls=LazyGroup, package="hdvae_platform.commands.study", summaries=COMMANDS)
def study() -> None:
    """Check, run, monitor, stop, delete and export studies."""
