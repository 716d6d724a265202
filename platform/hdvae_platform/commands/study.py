"""`hdvae study`: check, run, submit, list, status, stop, delete, export."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hdvae.errors import InputError, nearest
from hdvae_platform.commands.options import home_option, json_option, set_option
from hdvae_platform.display.text import duration, table
from hdvae_platform.running.status import StudyStatus, study_status
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records, StudyRecord, connect
from hdvae_platform.store.run_state import RunState
from hdvae_platform.study.study import Study, load_study

insecure_option = click.option(
    "--insecure", is_flag=True, help="Use a Ray that takes commands from whoever reaches it."
)
retry_option = click.option(
    "--retry-failed", is_flag=True, help="Start the runs that failed again, from their checkpoints."
)
accept_option = click.option(
    "--accept-code-change",
    is_flag=True,
    help="Go on with a study that was run with other code before; the change is recorded.",
)
there_option = click.option(
    "--address",
    metavar="http://HEAD:8265",
    help="Ask there: the job server it was submitted to.",
)
FILE = click.argument("file", type=click.Path(path_type=Path), metavar="FILE.yaml")


@click.group()
def study() -> None:
    """Check, run, follow, stop, delete and export studies."""


@study.command(short_help="Validate a study file; print runs and cost.")
@FILE
@set_option
@home_option
@json_option
def check(file: Path, overrides: tuple[str, ...], home: Path, as_json: bool) -> None:
    """Validate a study file; print its runs, what they need and about how long they take. Starts nothing."""
    from hdvae_platform.analysis.verdicts import in_words
    from hdvae_platform.running.estimate import estimate

    checked = load_study(file, overrides)
    cost = estimate(checked, Places.under(home))
    if as_json:
        click.echo(json.dumps(cost.plain(), indent=1))
        return
    click.echo(f"{checked.name}: {checked.claim}")
    for expectation in checked.expect:
        click.echo(f"expected: {in_words(expectation)}")
    if cost.arms:
        click.echo(table(["parameter set", "parameters", "s / step"], cost.rows()))
    if checked.search.method == "grid" and len(cost.arms) < cost.trials:
        click.echo(f"the first {len(cost.arms)} of {cost.trials} parameter sets; the others are taken to cost as much")
    resources = checked.resources
    steps = checked.experiment.training.steps
    several = f"{resources.workers}" if resources.elastic is None else f"{resources.fewest} to {resources.elastic.most}"
    workers = f"{several} workers, each of them with " if resources.together else ""
    click.echo(
        f"{_runs(checked, cost.trials, cost.runs)} of {steps} steps, {resources.concurrent} at a time, "
        f"each with {workers}{resources.cpus_per_worker} CPU and {resources.gpus_per_worker:g} GPU"
    )
    if (asked := checked.search.trials or 0) > cost.trials:
        only = f"only {cost.trials} different parameter {'set' if cost.trials == 1 else 'sets'}"
        click.echo(f"{asked} trials of {only}: each is trained once")
    if cost.runs:
        click.echo(f"about {duration(cost.seconds)} on this machine, evaluations not counted")
    if checked.search.hours is not None:
        click.echo(f"no parameter set is begun later than {checked.search.hours:g} hours after the first launch")


def _runs(checked: Study, trials: int, runs: int) -> str:
    if checked.parameter_sets() is None:
        return "as many runs as the hours allow"
    confirming = checked.confirmations(trials)
    also = f", and {confirming} to confirm the best" if confirming else ""
    return f"{runs} runs ({trials} parameter sets × {len(checked.seeds)} seeds{also})"


@study.command(short_help="Run a study, or go on with it.")
@FILE
@set_option
@click.option(
    "--address",
    default="local",
    envvar="RAY_ADDRESS",
    show_default=True,
    help="The Ray to run on: of its own on this machine (local), the cluster that this machine is part of (auto), or "
    "the one with its head at HOST:PORT.",
)
@insecure_option
@retry_option
@accept_option
@home_option
@json_option
def run(
    file: Path,
    overrides: tuple[str, ...],
    home: Path,
    as_json: bool,
    **how: Any,
) -> int:
    """Run a study, or go on with it where it stands."""
    from hdvae_platform.running.launch import Launch, run_study

    checked = load_study(file, overrides)
    places = Places.under(home)
    out = sys.stderr if as_json else sys.stdout
    ended = run_study(checked, places, lambda line: click.echo(line, file=out), Launch(**how))
    failed = [one for one in ended.runs if one.state == RunState.FAIL]
    for one in failed:
        click.echo(f"trial {one.trial} seed {one.seed} failed: {one.error}", err=True)
    if failed:
        click.echo("the same command with `--retry-failed` starts them again", err=True)
    if any(one.state == RunState.COMPLETE for one in ended.runs):
        _show_result(checked, places, as_json, finished=ended.finished)
    if not ended.finished:
        click.echo("stopped before its end; the same command goes on", err=True)
        return 130
    return 1 if failed else 0


@study.command(short_help="Run a study on a cluster that this machine is no part of.")
@FILE
@set_option
@click.option(
    "--address", required=True, envvar="RAY_API_SERVER_ADDRESS", metavar="http://HEAD:8265", help="Its job server."
)
@insecure_option
@retry_option
@accept_option
@home_option
def submit(
    file: Path,
    overrides: tuple[str, ...],
    address: str,
    insecure: bool,
    retry_failed: bool,
    accept_code_change: bool,
    home: Path,
) -> int:
    """Run a study, or go on with it, as a job of a Ray cluster, and print what it prints.

    Code, study and images go along; databases and storage are those of the cluster's environment.
    """
    from hdvae_platform.cluster.jobs import Jobs

    checked = load_study(file, overrides)
    given = {"--retry-failed": retry_failed, "--accept-code-change": accept_code_change, "--insecure": insecure}
    jobs = Jobs(address, insecure=insecure)
    job = jobs.submit(checked, home, [option for option, on in given.items() if on])
    click.echo(f"submitted as job {job}; Ctrl-C leaves it running")
    try:
        return jobs.follow(job, lambda part: click.echo(part, nl=False))
    except KeyboardInterrupt:
        words = f"{checked.name} --address {address}"
        click.echo(f"{job} goes on: `hdvae study status {words}` and `hdvae study stop {words}`", err=True)
        return 130


def _there(address: str, insecure: bool, *arguments: str) -> int:
    """Run a short command on a cluster, and print what it prints."""
    from hdvae_platform.cluster.jobs import Jobs

    jobs = Jobs(address, insecure=insecure)
    job = jobs.run(arguments)
    code = jobs.follow(job, lambda part: click.echo(part, nl=False))
    jobs.forget(job)
    return code


def _show_result(study: Study, places: Places, as_json: bool, *, finished: bool) -> None:
    """Print the arms and what they say of what is expected; of a finished study make the report."""
    from hdvae_platform.analysis import comparison
    from hdvae_platform.analysis.verdicts import verdicts
    from hdvae_platform.tracking.client import Client
    from hdvae_platform.tracking.faults import Unreachable

    try:
        client = Client(places)
        found = comparison.compare(client, comparison.Question([study.name], whole=True))
    except Unreachable as fault:
        click.echo(f"{fault}; the study is safe: `hdvae compare {study.name}` shows it later", err=True)
        return
    answers = verdicts(study.expect, found.arms)
    if as_json:
        click.echo(json.dumps({**found.plain(), "verdicts": [one.plain() for one in answers]}, indent=1))
    else:
        click.echo(f"\n{study.name}: {study.claim}\n")
        click.echo(comparison.as_table(found.arms))
        if found.confirmations:
            click.echo(f"\n{comparison.confirmation_table(found.confirmations)}")
        for one in answers:
            click.echo(f"\nexpected: {one.expected}\n{one.answer}: {one.numbers}")
        storage = places.storage if "://" in places.storage else _shown(Path(places.storage))
        click.echo(f"\nEvery run, curves and pictures:   hdvae ui --home {_shown(places.home)}")
        click.echo(f"Intervals and differences:        hdvae compare {study.name} --home {_shown(places.home)}")
        click.echo(f"Checkpoints, metrics, samples:    {storage}/{study.name}")
    if finished:
        _report(client, places, study, as_json)


def _report(client: Any, places: Places, study: Study, as_json: bool) -> None:
    """Make the page of a finished study, and log it to MLflow, unless it is there; say where it is.

    What keeps it from being made is said, and takes nothing from the study.
    """
    from hdvae_platform.report.writing import is_reported, write_report
    from hdvae_platform.store.layout import REPORT_PAGE, report_folder

    folder = report_folder(places.home, study.name)
    try:
        notes = [] if is_reported(client, places, study) else write_report(places, study.name, folder).notes
    except InputError as fault:
        click.echo(f"{fault}; there is no report: `hdvae report {study.name}` makes it", err=True)
        return
    for note in notes:
        click.echo(note, err=True)
    if not as_json:
        click.echo(f"Report, with figures:             {_shown(folder / REPORT_PAGE)}")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


@study.command("list")
@home_option
@json_option
def list_(home: Path, as_json: bool) -> None:
    """List the studies of the study database."""
    places = Places.known(home, "database")
    found = [study_status(places, record) for record in Records(connect(places.database)).studies()]
    if as_json:
        click.echo(json.dumps([one.summary() for one in found], indent=1))
    elif not found:
        click.echo(f"no studies in {home}; start one with `hdvae study run FILE.yaml`")
    else:
        rows = [
            [one.study, one.state, f"{one.complete}/{one.total}", str(one.pruned), str(one.failed), one.claim]
            for one in found
        ]
        click.echo(table(["study", "state", "runs done", "pruned", "failed", "claim"], rows))


@study.command(short_help="How far a study is, run by run.")
@click.argument("name")
@there_option
@insecure_option
@home_option
@json_option
def status(name: str, address: str | None, insecure: bool, home: Path, as_json: bool) -> int:
    """How far a study is: each run's state, step, attempts, time left and error; --json adds where checkpoints are."""
    if address is not None:
        return _there(address, insecure, "study", "status", name, *(["--json"] if as_json else []))
    _show_status(Places.known(home, "database"), name, as_json)
    return 0


def _show_status(places: Places, name: str, as_json: bool) -> None:
    found = _known(places, name)
    if as_json:
        click.echo(json.dumps(found.plain(), indent=1))
        return
    ends = f"{found.complete} of {found.total} runs done, {found.pruned} pruned, {found.failed} failed"
    click.echo(f"{name}: {found.state}, {ends}")
    header = ["trial", "seed", "kind", "state", "step", "attempts", "left", "settings"]
    click.echo(table(header, [_status_row(row) for row in found.trials]))
    for row in found.trials:
        if row["error"]:
            click.echo(f"trial {row['number']} seed {row['seed']}: {row['error']}")


def _status_row(row: dict[str, Any]) -> list[str]:
    from hdvae_platform.analysis.comparison import label

    left = "" if row["seconds_left"] is None else duration(row["seconds_left"])
    cells = [row["number"], row["seed"], row["kind"], row["state"], row["step"], row["attempts"], left]
    return [*map(str, cells), label(row["params"])]


@study.command(short_help="Stop a running study; it can go on later.")
@click.argument("name")
@there_option
@insecure_option
@home_option
def stop(name: str, address: str | None, insecure: bool, home: Path) -> int:
    """Ask the process that runs a study to stop; `hdvae study run` goes on later."""
    if address is not None:
        return _there(address, insecure, "study", "stop", name)
    _ask_to_stop(Places.known(home, "database"), name)
    return 0


def _ask_to_stop(places: Places, name: str) -> None:
    records = Records(connect(places.database))
    found = _known(places, name)
    if found.state != "running":
        click.echo(f"{name} is not running ({found.state})")
        return
    records.ask_to_stop(name)
    click.echo(f"{name} was asked to stop; it does within some seconds")


@study.command(short_help="Delete a study: runs, checkpoints, records.")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
def delete(name: str, yes: bool, home: Path) -> None:
    """Delete a study that nobody runs: its MLflow runs, its folder on the storage, and its records."""
    from hdvae_platform.running.deletion import delete_study

    places = Places.known(home, "database")
    record = _record(places, name)
    found = study_status(places, record)
    if not yes:
        _sure(f"delete {name} ({found.state}, {found.complete} of {found.total} runs done)?")
    done = delete_study(places, record)
    click.echo(
        f"deleted {name}: {done.folder}, its records and {done.mlflow_runs} MLflow runs (`mlflow gc` clears them)"
    )


def _sure(question: str) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{question} give --yes where nobody can be asked")
    click.confirm(question, abort=True)


@study.command(short_help="Write a study's records as Parquet.")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new folder.")
@home_option
@json_option
def export(name: str, out: Path, home: Path, as_json: bool) -> None:
    """Write the records of a study: study.yaml, history.json, runs, metrics and values of each image as Parquet."""
    from hdvae_platform.running.export import export as write

    places = Places.known(home, "database")
    files = [str(file) for file in write(places, _record(places, name), out)]
    click.echo(json.dumps({"study": name, "files": files}, indent=1) if as_json else "\n".join(files))


def _known(places: Places, name: str) -> StudyStatus:
    return study_status(places, _record(places, name))


def _record(places: Places, name: str) -> StudyRecord:
    records = Records(connect(places.database))
    record = records.study(name)
    if record is None:
        names = [one.name for one in records.studies()]
        hint = nearest(name, names) or "; there are none yet"
        raise InputError(f"no study {name} in {places.home}{hint}")
    return record
