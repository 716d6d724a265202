"""`hdvae data`: the data sets, and fetching them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from hdvae.data.dataset import SPLITS, Dataset
from hdvae.data.parquet import parquet_path
from hdvae_platform.commands.groups import SuggestingGroup
from hdvae_platform.commands.options import home_option, json_option
from hdvae_platform.display.text import table
from hdvae_platform.store import datasets
from hdvae_platform.store.catalogue import check_name

_HEADER = ("name", "train", "valid", "test", "what", "state")


@click.group(cls=SuggestingGroup)
def data() -> None:
    """Fetch and list data sets."""


@data.command("list")
@click.option("--details", is_flag=True, help="Also compare the splits: how many images stand in two of them.")
@json_option
@home_option
def list_(details: bool, as_json: bool, home: Path) -> None:
    """List the known data sets, and whether each is fetched and intact."""
    states = datasets.state(home, details=details)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(state) for state in states], indent=2))
        return
    click.echo(table(_HEADER, [_row(state) for state in states]))
    for state in states:
        if state.overlaps is not None:
            shared = "; ".join(map(str, state.overlaps)) or "none"
            click.echo(f"{state.name}: images in two splits, compared as stored: {shared}")


@data.command(short_help="Fetch data sets, verified by checksum.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--from",
    "source",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Read the published files, or a prepared NAME.npz, from this folder instead of downloading them.",
)
@home_option
def fetch(names: Sequence[str], source: Path | None, home: Path) -> None:
    """Fetch data sets, and verify each by its checksum before it is written; stop at the first that fails."""
    for name in names:
        check_name(name)
    for name in names:
        click.echo(_fetch_line(home, name, source))


def _fetch_line(home: Path, name: str, source: Path | None) -> str:
    """Fetch one data set, unless it is there; returns a line about it."""
    there = datasets.state_of(home, name).state == "fetched"
    dataset = datasets.fetch(home, name, source, progress=partial(click.echo, err=True))
    done = "already fetched, in" if there else "written to"
    return f"{name}: {_describe(dataset)}, {done} {parquet_path(home, name)}"


def _describe(dataset: Dataset) -> str:
    """A data set in one line: number of images, image size, and mean of the pixels of each split."""
    counts = "/".join(str(dataset.size(split)) for split in SPLITS)
    means = "/".join(f"{dataset.images(split).mean():.5f}" for split in SPLITS)
    return f"{counts} images of {dataset.height}x{dataset.width}, mean of ones {means}"


def _row(state: datasets.State) -> tuple[str, ...]:
    """A row of the table; the state comes last, because it may be long."""
    counts = [str(state.counts[split]) if state.counts else "-" for split in SPLITS]
    return (state.name, *counts, state.title, state.state)
