"""`hdvae study status`: how far a study is, run by run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hdvae_platform.analysis.labels import label, marked
from hdvae_platform.analysis.looks import Looks
from hdvae_platform.commands.options import home_option, json_option, to_stderr
from hdvae_platform.commands.study.options import insecure_option, remote_option
from hdvae_platform.commands.study.remote import run_remotely
from hdvae_platform.display.text import duration, table
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import Storage


@click.command()
@click.argument("name")
@remote_option
@insecure_option
@home_option
@json_option
def status(name: str, address: str | None, insecure: bool, home: Path, as_json: bool) -> int:
    """Show each run's state, step, attempts, time left and error, and the looks at verdicts; --json has more."""
    if address is not None:
        return run_remotely(address, insecure, "study", "status", name, *(["--json"] if as_json else []))
    places = Places.known(home, "database")
    study = study_status(places, Records(places.database).known_study(name), to_stderr)
    looks = Looks(Storage(places.storage, say=to_stderr), name).records()
    if as_json:
        click.echo(json.dumps({**study.plain(), "looks": looks}, indent=1))
    else:
        click.echo("\n".join([*_lines(study), *map(_look, looks)]))
    return 0


def _lines(study: StudyStatus) -> list[str]:
    """The status as lines of text."""
    counts = f"{study.complete} of {study.total} runs done, {study.pruned} pruned, {study.failed} failed"
    if study.trainings_saved is not None:
        counts += f"; pruning saved {study.trainings_saved:.1f} full trainings"
    header = ["run", "kind", "state", "step", "attempts", "images/s", "MB", "left", "settings"]
    errors = [f"{row['handle']}: {row['error']}" for row in study.trials if row["error"]]
    rows = [_row(row) for row in study.trials]
    return [f"{study.study}: {study.state}, {counts}", table(header, rows), *errors]


def _look(record: Mapping[str, Any]) -> str:
    """A look at a verdict."""
    seeds = ", ".join(map(str, record["seeds"]))
    return f"look {record['number']}, seeds {seeds}: {record['expected']}"


def _row(row: Mapping[str, Any]) -> list[str]:
    left = "" if row["seconds_left"] is None else duration(row["seconds_left"])
    costs = ["" if row[cost] is None else f"{row[cost]:.0f}" for cost in ("images_per_second", "memory_peak_mb")]
    cells = [row["handle"], row["kind"], row["state"], row["step"], row["attempts"], *costs, left]
    return [*map(str, cells), marked(label(row["params"]), row["feasible"])]
