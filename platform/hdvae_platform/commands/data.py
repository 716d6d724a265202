"""`hdvae data`: which data sets there are, and getting them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.parquet import parquet_path
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.display.text import table
from hdvae_platform.store import datasets

_HEADER = ("name", "train", "valid", "test", "what", "state")


@click.group()
def data() -> None:
    """Fetch data sets and list them."""


@data.command("list")
@json_option
@home_option
def list_(as_json: bool, home: Path) -> None:
    """List the known data sets and whether they are fetched and intact."""
    states = datasets.state(home)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(state) for state in states], indent=2))
    else:
        click.echo(table(_HEADER, [_row(state) for state in states]))


@data.command(short_help="Get data sets, verified by checksum.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--from",
    "source",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Take the public files, or a ready NAME.npz, from this folder instead of downloading them.",
)
@home_option
def fetch(names: Sequence[str], source: Path | None, home: Path) -> None:
    """Get data sets, each verified by checksum before it is written; stop at the first that fails."""
    for name in names:
        datasets.check_name(name)
    for name in names:
        click.echo(_fetch_line(home, name, source))


def _fetch_line(home: Path, name: str, source: Path | None) -> str:
    """Fetch one data set, unless it is there, and say what was done."""
    there = datasets.state_of(home, name).state == "fetched"
    dataset = datasets.fetch(home, name, source, progress=partial(click.echo, err=True))
    done = "already fetched, in" if there else "written to"
    return f"{name}: {_describe(dataset)}, {done} {parquet_path(home, name)}"


def _describe(dataset: Dataset) -> str:
    """Describe a data set in a line: counts, image size, mean of ones, in the order of the splits."""
    counts = "/".join(str(dataset.size(split)) for split in SPLITS)
    means = "/".join(f"{dataset.images(split).mean():.5f}" for split in SPLITS)
    return f"{counts} images of {dataset.height}x{dataset.width}, mean of ones {means}"


def _row(state: datasets.State) -> tuple[str, ...]:
    """Make a row of the table; the state comes last, as it may be long."""
    counts = [str(state.counts[split]) if state.counts else "-" for split in SPLITS]
    return (state.name, *counts, state.title, state.state)
