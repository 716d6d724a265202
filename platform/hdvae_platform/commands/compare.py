"""`hdvae compare`: the arms of studies side by side."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hdvae.errors import InputError
from hdvae_platform.analysis import comparison
from hdvae_platform.analysis.caveats import as_lines
from hdvae_platform.analysis.comparison_table import as_csv, as_parquet
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.store.places import Places
from hdvae_platform.store.storage import write_atomically
from hdvae_platform.tracking.client import Client

FORMATS = ("terminal", "md", "csv", "json", "parquet")
PICTURES = (".png", ".svg")
ENDINGS = {".txt": "terminal", ".md": "md", ".csv": "csv", ".json": "json", ".parquet": "parquet"}
"""Format by the ending of the file that holds it."""


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--by", multiple=True, metavar="PATH", help="Group by this setting instead of all that were varied.")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Show this metric; may be repeated.")
@click.option("--where", multiple=True, metavar="PATH=VALUE", help="Only runs with this setting; may be repeated.")
@click.option("--against", multiple=True, metavar="PATH=VALUE", help="Compare every arm with the one that has this.")
@click.option("--trend", metavar="PATH", help="Ask whether the metric (the bias) has a trend in this setting.")
@click.option(
    "--direction",
    type=click.Choice(["increasing", "decreasing", "two-sided"]),
    help="Of the trend, stated before looking; two-sided, if it is not given.",
)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="As what; what --out ends in, or else for a terminal."
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write here; with --trend, .png or .svg is its plot."
)
@home_option
@json_option
def compare(form: str | None, out: Path | None, home: Path, as_json: bool, **asked: Any) -> None:
    """Compare the arms of studies: means over seeds, the differences between arms, trends, and confirmed winners."""
    _check_together(asked)
    if as_json and form not in (None, "json"):
        raise InputError(f"--json and --format {form}: give one of them")
    form = "json" if as_json else form
    picture = out is not None and out.suffix in PICTURES
    if picture and asked["trend"] is None:
        raise InputError(f"--out {out}: a picture is made of a trend: give --trend PATH")
    form = _form(form, None if picture else out)
    found = comparison.compare(
        Client(Places.known(home, "tracking")), _question(asked, whole=form in ("json", "csv", "parquet"))
    )
    if form in ("csv", "parquet") and found.marks:
        click.echo(as_lines(found.marks), err=True)
    if out is not None and not picture:
        _write(out, _rendered(found, form))
        click.echo(json.dumps({"out": str(out)}) if as_json else str(out))
        return
    if out is not None:
        _write_picture(out, found)
    click.echo(_rendered(found, form).decode().rstrip("\n"))


def _check_together(asked: Mapping[str, Any]) -> None:
    """Refuse options that say nothing beside each other."""
    if asked["trend"] is None and asked["direction"] is not None:
        raise InputError(f"--direction {asked['direction']}: it is of a trend: give --trend PATH")
    if asked["trend"] is not None and asked["by"]:
        raise InputError("--by and --trend: a trend is within runs that share every other setting: give one of them")
    if asked["trend"] is not None and asked["against"]:
        raise InputError("--against and --trend: a trend has no arm to compare with: give one of them")


def _form(form: str | None, out: Path | None) -> str:
    """The format: as asked for, or by the ending of the file."""
    if out is None:
        if form == "parquet":
            raise InputError("--format parquet needs --out FILE")
        return form or "terminal"
    by_ending = ENDINGS.get(out.suffix)
    if by_ending is None:
        raise InputError(f"--out {out}: unknown ending '{out.suffix}'; known: {', '.join([*ENDINGS, *PICTURES])}")
    if form not in (None, by_ending):
        ending = next(known for known, one in ENDINGS.items() if one == form)
        raise InputError(f"--out {out}: '{out.suffix}' is not the ending of format {form}, which is '{ending}'")
    return by_ending


def _question(asked: Mapping[str, Any], *, whole: bool) -> comparison.Question:
    return comparison.Question(
        studies=asked["names"],
        by=asked["by"],
        metrics=[comparison.full_name(metric) for metric in asked["metrics"]],
        where=comparison.settings_of(asked["where"], "--where"),
        against=comparison.settings_of(asked["against"], "--against"),
        trend=asked["trend"],
        direction=asked["direction"] or "two-sided",
        whole=whole,
    )


def _write_picture(out: Path, found: comparison.Comparison) -> None:
    """Write the picture of the one trend in every kind, and say where: beside the answer, which a program may read."""
    from hdvae_platform.analysis.trend_figure import trend_figure  # not before it is wanted: it brings matplotlib

    if len(found.trends) > 1:
        raise InputError(f"--out {out}: a picture shows one metric: give one --metric")
    for kind, data in trend_figure(found.trends[0]).items():
        path = out.with_suffix(f".{kind}")
        _write(path, data)
        click.echo(f"written: {path}", err=True)


def _rendered(found: comparison.Comparison, form: str) -> bytes:
    if form == "parquet":
        return as_parquet(found)
    if form == "csv":
        return as_csv(found)
    if form == "json":
        return (json.dumps(found.plain(), indent=1) + "\n").encode()
    if form == "md":
        return comparison.in_markdown(found, shlex.join(["hdvae", *sys.argv[1:]])).encode()
    return (comparison.in_full(found) + "\n").encode()


def _write(out: Path, data: bytes) -> None:
    try:
        write_atomically(out, data)
    except OSError as fault:
        raise InputError(f"--out {out}: cannot be written: {fault.strerror}") from None
