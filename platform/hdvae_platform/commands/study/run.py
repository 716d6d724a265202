"""`hdvae study run`: run a study, or continue it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option, json_option, set_option
from hdvae_platform.commands.study.options import accept_option, file_argument, insecure_option, retry_option
from hdvae_platform.commands.study.result import print_report, print_result, result_of, write_missing_report
from hdvae_platform.running.finished import keep_result, kept_result
from hdvae_platform.store.catalogue import check_name
from hdvae_platform.store.layout import handle
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Run
from hdvae_platform.store.run_state import RunState
from hdvae_platform.store.storage import StorageAway
from hdvae_platform.study.file import load_study
from hdvae_platform.study.study import Study

if TYPE_CHECKING:
    from hdvae_platform.tracking.client import Client


@click.command()
@file_argument
@set_option
@click.option(
    "--address",
    default="local",
    envvar="RAY_ADDRESS",
    show_default=True,
    help="The Ray to run on: one of its own on this machine (local), the cluster that this machine is part of (auto), "
    "or the cluster with its head at HOST:PORT.",
)
@insecure_option
@retry_option
@accept_option
@home_option
@json_option
def run(file: Path, overrides: tuple[str, ...], home: Path, as_json: bool, **how: Any) -> int:
    """Run a study, or continue it; print its arms and write its report at the end."""
    study = load_study(file, overrides, check_name)
    places = Places.under(home)
    if not how["retry_failed"] and (kept := kept_result(study, places)) is not None:
        _print_failed(study, kept.runs)
        print_result(kept.result, study, places, as_json=as_json)
        if not as_json:
            print_report(study, places)
        return 1 if _failed(kept.runs) else 0
    return _launch(study, places, as_json, how)


def _launch(study: Study, places: Places, as_json: bool, how: dict[str, Any]) -> int:
    """Run what is left of a study, and print its result; returns the exit code."""
    from hdvae_platform.running.launch import Launch, run_study  # imports torch, Ray and MLflow
    from hdvae_platform.running.live_display import printing

    out = sys.stderr if as_json else sys.stdout
    with printing(out, plain=as_json) as echo:
        ended = run_study(study, places, echo, Launch(**how))
    _print_failed(study, ended.runs)
    if any(run.state == RunState.COMPLETE for run in ended.runs):
        _conclude(study, places, as_json, finished=ended.finished, sent=ended.sent)
    if not ended.finished:
        click.echo("stopped before its end; run the same command again to continue", err=True)
        return 130
    return 1 if _failed(ended.runs) else 0


def _conclude(study: Study, places: Places, as_json: bool, *, finished: bool, sent: bool) -> None:
    """Print the result of a study, and write the report of a finished one.

    What prevents either is printed, and is no failure of the study. The result of a study that MLflow has completely is
    kept for the next call.
    """
    from hdvae_platform.tracking.client import Client
    from hdvae_platform.tracking.faults import Unreachable  # imports MLflow

    try:
        client = Client(places)
        result = result_of(study, places, client, finished=finished)
    except (Unreachable, StorageAway) as error:
        click.echo(f"{error}; the study is safe: `hdvae compare {study.name}` shows it later", err=True)
        return
    print_result(result, study, places, as_json=as_json)
    if finished and _report(study, places, client, as_json) and sent:
        try:
            keep_result(study, places, result)
        except OSError as error:
            click.echo(f"the result cannot be kept for the next call: {error}", err=True)


def _report(study: Study, places: Places, client: Client, as_json: bool) -> bool:
    """Write the report of a finished study, unless it is there, and print where it is; whether MLflow has it."""
    try:
        logged = write_missing_report(study, places, client)
    except InputError as error:
        click.echo(f"{error}; there is no report: `hdvae report {study.name}` writes it", err=True)
        return False
    if not as_json:
        print_report(study, places)
    return logged


def _failed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.state == RunState.FAIL]


def _print_failed(study: Study, runs: Sequence[Run]) -> None:
    failed = _failed(runs)
    for run in failed:
        click.echo(f"{handle(study.name, run.trial, run.seed)} failed: {run.error}", err=True)
    if failed:
        click.echo("the same command with `--retry-failed` starts them again", err=True)
