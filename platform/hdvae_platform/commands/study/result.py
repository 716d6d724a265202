"""The end of `hdvae study run`: the arms of the study, what they say of its expectations, and its report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hdvae_platform.display.text import short_path
from hdvae_platform.running.finished import Result
from hdvae_platform.store.layout import REPORT_PAGE, report_folder
from hdvae_platform.store.places import Places
from hdvae_platform.study.study import Study

if TYPE_CHECKING:
    from hdvae_platform.tracking.client import Client


def result_of(study: Study, places: Places, client: Client, *, finished: bool) -> Result:
    """The result of a study, from MLflow.

    Expectations are tested once the study is finished: each test is a look, and an interruption should cost none.

    Raises:
        Unreachable: MLflow does not answer.
        StorageAway: the storage, which knows the looks, does not answer.
    """
    from hdvae_platform.analysis.answers import answer_in_words, answer_of
    from hdvae_platform.analysis.compare import compare
    from hdvae_platform.analysis.comparison import Question
    from hdvae_platform.analysis.comparison_text import arm_table, confirmation_table
    from hdvae_platform.analysis.tested_answers import with_verdicts
    from hdvae_platform.running.status import study_state
    from hdvae_platform.store.records import Records

    compared = compare(client, Question([study.name], all_metrics=True))
    runs = study_state(places, Records(places.database).known_study(study.name)).runs
    answer = with_verdicts(answer_of(study, runs, finished=finished), client, places)
    parts = [f"{study.name}: {study.claim}", arm_table(compared.arms)]
    parts += [confirmation_table(compared.confirmations), answer_in_words(answer)]
    return Result("\n\n".join(filter(None, parts)), replace(compared, answers=[answer]).plain())


def print_result(result: Result, study: Study, places: Places, *, as_json: bool) -> None:
    """Print the result, and where to look next."""
    if as_json:
        click.echo(json.dumps(result.document, indent=1))
        return
    home = short_path(places.home)
    storage = places.storage if "://" in places.storage else short_path(Path(places.storage))
    click.echo(f"\n{result.text}\n")
    click.echo(f"Every run, curves and pictures:   hdvae ui {study.name} --home {home}")
    click.echo(f"Intervals and differences:        hdvae compare {study.name} --home {home}")
    if study.space and any(answer["best"] for answer in result.document["answers"]):
        click.echo(f"Best trial as a study file:       hdvae study best {study.name} --out FILE.yaml --home {home}")
    click.echo(f"Checkpoints, metrics, samples:    {storage}/{study.name}")


def write_missing_report(study: Study, places: Places, client: Client) -> bool:
    """Write the report of a finished study and log it to MLflow, unless both were done.

    Returns:
        Whether MLflow has the report.

    Raises:
        InputError: the report cannot be written.
        Unreachable: MLflow does not answer.
    """
    from hdvae_platform.report.writing import is_reported, write_report

    if is_reported(client, places, study):
        return True
    written = write_report(places, study.name, report_folder(places.home, study.name))
    for note in written.notes:
        click.echo(note, err=True)
    return written.logged


def print_report(study: Study, places: Places) -> None:
    """Print where the report is."""
    page = report_folder(places.home, study.name) / REPORT_PAGE
    click.echo(f"Report, with figures:             {short_path(page)}")
