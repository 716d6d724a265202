"""A study as a table for notebooks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.labels import distinct_labels
from hdvae_platform.analysis.run_settings import value_of, varied_in
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import RunKind, Tag

KINDS = {RunKind.SEARCH: "search", RunKind.CONFIRMATION: "confirmation"}
"""Kinds of runs in the table, and their names there."""


def results(name: str, home: str | Path | None = None) -> pd.DataFrame:
    """A row for each run of a study, confirmations included, in order: see `hdvae_platform.results`."""
    client = Client(Places.known(Path(home or os.environ.get("HDVAE_HOME", "runs")), "tracking"))
    runs = [run for kind in KINDS for run in client.find({Tag.STUDY: name, Tag.KIND: kind})]
    if not runs:
        known = [run.study for run in client.find({Tag.KIND: RunKind.STUDY})]
        raise InputError(f"no study {name} in MLflow at {client.address}{nearest(name, known)}")
    rows = [_row(run, arm) for run, arm in zip(runs, distinct_labels([varied_in(run) for run in runs]), strict=True)]
    table = pd.DataFrame(rows)
    for column in table:
        if any(isinstance(value, list | dict) for value in table[column]):  # pandas cannot group by such values
            table[column] = [json.dumps(value) for value in table[column]]
    return table.sort_values(["kind", "trial", "seed"], ascending=[False, True, True], ignore_index=True)


def _row(run: TrackedRun, arm: str) -> dict[str, object]:
    tags = run.tags
    return {
        "handle": run.handle,
        "study": run.study,
        "kind": KINDS[RunKind(tags[Tag.KIND])],
        "trial": run.trial,
        "seed": run.seed,
        "state": tags.get(Tag.STATE, RunState.RUNNING),
        "run_id": run.run_id,
        "arm": arm,
        **{path: value_of(text) for path, text in run.params.items() if path != "seed"},
        **varied_in(run),
        **run.metrics,
    }
