"""`hdvae compare`: the arms of studies side by side."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hdvae.errors import InputError
from hdvae_platform.analysis.answers import answer_of
from hdvae_platform.analysis.caveats import as_lines
from hdvae_platform.analysis.compare import compare as answer
from hdvae_platform.analysis.comparison import Comparison, Question
from hdvae_platform.analysis.comparison_table import as_csv, as_parquet
from hdvae_platform.analysis.comparison_text import as_markdown, as_text
from hdvae_platform.analysis.metric_names import full_name
from hdvae_platform.analysis.run_settings import Condition, parse_settings
from hdvae_platform.analysis.tested_answers import with_verdicts
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.running.status import study_state
from hdvae_platform.store.places import Places
from hdvae_platform.store.records import Records
from hdvae_platform.store.storage import StorageAway, write_atomically
from hdvae_platform.tracking.client import Client

FORMATS = ("terminal", "md", "csv", "json", "parquet")
FIGURE_ENDINGS = (".png", ".svg")
ENDINGS = {".txt": "terminal", ".md": "md", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
"""The format of an output file, by its ending."""


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--by",
    multiple=True,
    metavar="PATH",
    help="Group runs by this setting instead of all varied settings; may be repeated.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Show this metric, e.g. elbo or test/elbo; may be repeated.",
)
@click.option(
    "--where",
    multiple=True,
    metavar="PATH=VALUE",
    help="Only runs with this setting; also <, <=, >, >= (in quotes); may be repeated.",
)
@click.option("--against", multiple=True, metavar="PATH=VALUE", help="Compare every arm with the one that has this.")
@click.option("--trend", metavar="PATH", help="Test whether the metric (the bias) grows or falls with this.")
@click.option(
    "--direction",
    type=click.Choice(["increasing", "decreasing", "two-sided"]),
    help="The trend to test for, chosen before looking at the data.  [default: two-sided]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Output format.  [default: by the ending of --out, else terminal]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write to this file; with --trend, .png and .svg write the figure of the trend.",
)
@click.option("--all", "everything", is_flag=True, help="Show the differences that are not significant too.")
@home_option
@json_option
def compare(form: str | None, out: Path | None, everything: bool, home: Path, as_json: bool, **asked: Any) -> None:
    """Compare the arms of studies: best trials, verdicts, means over seeds, differences between arms, and trends.

    An arm is the group of runs with the same varied settings; its runs differ by seed.
    """
    _check_together(asked)
    if as_json and form not in (None, "json"):
        raise InputError(f"--json and --format {form}: give one of them")
    form = "json" if as_json else form
    is_figure = out is not None and out.suffix in FIGURE_ENDINGS
    if is_figure and asked["trend"] is None:
        raise InputError(f"--out {out}: a figure is drawn of a trend only: give --trend PATH")
    form = _form(form, None if is_figure else out)
    question = _question(asked, all_metrics=form in ("json", "csv", "parquet"))
    places = Places.known(home, "tracking")
    client = Client(places)
    comparison = answer(client, question)
    if question.is_whole and form not in ("csv", "parquet"):
        comparison = _summed_up(comparison, client, places)
    if form in ("csv", "parquet") and comparison.caveats:
        click.echo(as_lines(comparison.caveats), err=True)
    if out is not None and not is_figure:
        _write(out, _rendered(comparison, form, everything))
        click.echo(json.dumps({"out": str(out)}) if as_json else str(out))
        return
    if out is not None:
        _write_figure(out, comparison)
    click.echo(_rendered(comparison, form, everything).decode().rstrip("\n"))


def _summed_up(comparison: Comparison, client: Client, places: Places) -> Comparison:
    """The same with what the studies answer, as far as the study database knows them.

    MLflow alone is enough to compare arms. Where the study database or the storage does not answer, a caveat says so.
    """
    answers, caveats = [], list(comparison.caveats)
    try:
        Places.known(places.home, "database")
    except InputError:
        return comparison
    try:
        records = Records(places.database)
    except InputError as fault:
        return replace(comparison, caveats=[*caveats, f"no best trials and verdicts: {fault}"])
    for record in filter(None, map(records.study, comparison.studies)):
        state = study_state(places, record)
        found = answer_of(record.as_study(), state.runs, finished=state.state == "finished")
        try:
            found = with_verdicts(found, client, places)
        except StorageAway as fault:
            caveats.append(f"no verdicts of {record.name}: {fault}")
        answers.append(found)
    return replace(comparison, answers=answers, caveats=caveats)


def _check_together(asked: Mapping[str, Any]) -> None:
    """Refuse options that have no meaning together."""
    if asked["trend"] is None and asked["direction"] is not None:
        raise InputError(f"--direction {asked['direction']}: this is the direction of a trend: give --trend PATH")
    if asked["trend"] is not None and asked["by"]:
        raise InputError("--by and --trend: a trend compares runs that share every other setting: give one of them")
    if asked["trend"] is not None and asked["against"]:
        raise InputError("--against and --trend: a trend is not compared with an arm: give one of them")


def _form(form: str | None, out: Path | None) -> str:
    """The format: the one asked for, or by the ending of the file."""
    if out is None:
        if form == "parquet":
            raise InputError("--format parquet needs --out FILE")
        return form or "terminal"
    by_ending = ENDINGS.get(out.suffix)
    if by_ending is None:
        raise InputError(f"--out {out}: unknown ending '{out.suffix}'; known: {', '.join([*ENDINGS, *FIGURE_ENDINGS])}")
    if form not in (None, by_ending):
        ending = next(known for known, one in ENDINGS.items() if one == form)
        raise InputError(f"--out {out}: '{out.suffix}' is not the ending of format {form}, which is '{ending}'")
    return by_ending


def _question(asked: Mapping[str, Any], *, all_metrics: bool) -> Question:
    return Question(
        studies=asked["names"],
        by=asked["by"],
        metrics=[full_name(metric) for metric in asked["metrics"]],
        where=[Condition.parsed(text, "--where") for text in asked["where"]],
        against=parse_settings(asked["against"], "--against"),
        trend=asked["trend"],
        direction=asked["direction"] or "two-sided",
        all_metrics=all_metrics,
    )


def _write_figure(out: Path, comparison: Comparison) -> None:
    """Write the figure of the trend as PNG and SVG, and print their paths to standard error."""
    from hdvae_platform.analysis.trend_figure import trend_figure  # imported here because it imports matplotlib

    if len(comparison.trends) > 1:
        raise InputError(f"--out {out}: a figure shows one metric: give --metric once")
    for kind, data in trend_figure(comparison.trends[0]).items():
        path = out.with_suffix(f".{kind}")
        _write(path, data)
        click.echo(f"written: {path}", err=True)


def _rendered(comparison: Comparison, form: str, everything: bool) -> bytes:
    if form == "parquet":
        return as_parquet(comparison)
    if form == "csv":
        return as_csv(comparison)
    if form == "json":
        return (json.dumps(comparison.plain(), indent=1) + "\n").encode()
    if form == "md":
        return as_markdown(comparison, shlex.join(["hdvae", *sys.argv[1:]]), everything).encode()
    return (as_text(comparison, everything) + "\n").encode()


def _write(out: Path, data: bytes) -> None:
    try:
        write_atomically(out, data)
    except OSError as fault:
        raise InputError(f"--out {out}: cannot be written: {fault.strerror}") from None
