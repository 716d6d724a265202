"""`hdvae study best`: the best trial of a study, and a file to train it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import yaml

from hdvae.errors import InputError
from hdvae_platform.analysis.answers import Answer, Best, answer_of, best_in_words, best_values, complete_of
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.running.status import study_state
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import write_atomically


@click.command()
@click.argument("name")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.yaml",
    help="Write its experiment to this file, which `hdvae train` and `hdvae study run` take.",
)
@click.option("--trial", type=int, metavar="N", help="With --out: write this complete trial, the best or not.")
@home_option
@json_option
def best(name: str, out: Path | None, trial: int | None, home: Path, as_json: bool) -> None:
    """Print the best trial of a study with its settings and values; of several metrics, the Pareto front."""
    places = Places.known(home, "database")
    record = Records(places.database).known_study(name)
    state = study_state(places, record)
    answer = answer_of(record.as_study(), state.runs, finished=state.state == "finished")
    if trial is not None and out is None:
        raise InputError(f"--trial {trial} says which trial is written: give --out FILE.yaml")
    if out is not None:
        chosen = answer.single() if trial is None else complete_of(answer.study, state.runs, trial)
        _write(out, experiment_file(answer, chosen))
    if not answer.best and trial is None:
        raise InputError(f"study {name} {answer.none}; `hdvae study status {name}` shows its runs")
    if as_json:
        click.echo(json.dumps({**answer.plain(), "out": None if out is None else str(out)}, indent=1))
        return
    if answer.best:
        click.echo(best_in_words(answer))
    if out is not None:
        click.echo(f"written: {out}; `hdvae train {out}` trains it again, `hdvae study run {out}` with all its seeds")


def experiment_file(answer: Answer, best: Best) -> str:
    """A study file of a single experiment: that of a trial, with the seeds of its search."""
    study = answer.study
    document: dict[str, Any] = {
        "name": f"{study.name[:60]}-best-{best.trial.number}",
        "claim": f"Trial {best.trial.number} of study {study.name}, trained again.",
        "experiment": study.experiment_at(best.settings).plain(),
        **({"start_from": study.start_from} if study.start_from else {}),
        "search": {"metric": study.search.metric, "direction": study.search.direction},
        "seeds": list(study.seeds),
    }
    head = [f"{best.handle} and its other seeds: {best.label}", *best_values(answer, best)]
    comments = "".join(f"# {' '.join(line.split())}\n" for line in head)
    return comments + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def _write(out: Path, text: str) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise InputError(f"--out {out}: a study file ends in .yaml")
    try:
        write_atomically(out, text.encode())
    except OSError as fault:
        raise InputError(f"--out {out}: cannot be written: {fault.strerror}") from None
