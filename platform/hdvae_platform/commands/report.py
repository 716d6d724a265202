"""`hdvae report`: a study as one page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from hdvae.errors import InputError
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.places import Places
from hdvae_platform.report.contents import Contents, read_contents
from hdvae_platform.report.drawing import Drawn, NotDrawn
from hdvae_platform.report.figures import all_figures
from hdvae_platform.report.page import html
from hdvae_platform.storage import write_atomically
from hdvae_platform.tracking import Client, Unreachable

PAGE = "report.html"


@click.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write.  [default: reports/NAME in the home]"
)
@home_option
@json_option
def report(name: str, out: Path | None, home: Path, as_json: bool) -> None:
    """Write a study as one HTML page that needs no network, its figures beside it, and log both to MLflow."""
    places = Places.known(home, "database")
    contents = read_contents(places, name)
    figures = all_figures(contents)
    drawn = [one for one in figures if isinstance(one, Drawn)]
    files = {f"figures/{one.name}.{kind}": getattr(one, kind) for one in drawn for kind in ("svg", "png")}
    files[PAGE] = html(contents, figures).encode()
    folder = out or places.home / "reports" / name
    _write(folder, files, [one.name for one in figures if isinstance(one, NotDrawn)])
    logged = _log(contents, files)
    page = folder / PAGE
    if as_json:
        paths = [str(folder / file) for file in files if file != PAGE]
        click.echo(json.dumps({"report": str(page), "figures": paths, "logged": logged}, indent=1))
    else:
        click.echo(str(page))


def _write(folder: Path, files: Mapping[str, bytes], not_drawn: list[str]) -> None:
    """The figures, then the page; figures of an earlier report that do not apply any more go."""
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            write_atomically(folder / file, data)
        for name in not_drawn:
            for kind in ("svg", "png"):
                (folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
    except OSError as fault:
        raise InputError(f"--out {folder}: cannot be written: {fault.strerror}") from None


def _log(contents: Contents, files: Mapping[str, bytes]) -> bool:
    """Log to the study's run in MLflow; whether MLflow took all of it."""
    if contents.parent is None:
        click.echo(f"MLflow has no run of the whole study {contents.study.name}: the report is not logged", err=True)
        return False
    try:
        Client(contents.places).log_files(contents.parent, {f"report/{name}": data for name, data in files.items()})
    except Unreachable as fault:
        click.echo(f"{fault}; the report is written, but not logged: the same command logs it later", err=True)
        return False
    return True
