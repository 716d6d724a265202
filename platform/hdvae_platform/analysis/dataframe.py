"""A study as a table for notebooks."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hdvae.errors import InputError, nearest
from hdvae_platform.analysis.labels import distinct_labels
from hdvae_platform.analysis.run_settings import value_of, varied_in
from hdvae_platform.store.places import Places
from hdvae_platform.store.run_state import RunState
from hdvae_platform.tracking.client import Client, TrackedRun
from hdvae_platform.tracking.names import Param, RunKind
from hdvae_platform.tracking.study_run import confirmation_runs, search_runs, study_names


def results(name: str, home: Path) -> pd.DataFrame:
    """A row for each run of a study, confirmations included, in order: see `hdvae_platform.results`."""
    client = Client(Places.known(home, "tracking"))
    runs = [*search_runs(client, name), *confirmation_runs(client, name)]
    if not runs:
        raise InputError(f"no study {name} in MLflow at {client.address}{nearest(name, study_names(client))}")
    rows = [_row(run, arm) for run, arm in zip(runs, distinct_labels([varied_in(run) for run in runs]), strict=True)]
    table = pd.DataFrame(rows)
    for column in table:
        if any(isinstance(value, list | dict) for value in table[column]):  # pandas cannot group by such values
            table[column] = [json.dumps(value) for value in table[column]]
    return table.sort_values(["kind", "trial", "seed"], ascending=[False, True, True], ignore_index=True)


def _row(run: TrackedRun, arm: str) -> dict[str, object]:
    return {
        "handle": run.handle,
        "study": run.study,
        "kind": "confirmation" if run.kind == RunKind.CONFIRMATION else "search",
        "trial": run.trial,
        "seed": run.seed,
        "state": str(run.state or RunState.RUNNING),
        "run_id": run.run_id,
        "arm": arm,
        **{path: value_of(text) for path, text in run.params.items() if path != Param.SEED},
        **varied_in(run),
        **run.metrics,
    }
