"""The study platform: launches, resumes, tracks and compares HD-VAE studies on Ray, Optuna and MLflow."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def results(name: str, home: str | Path | None = None) -> pd.DataFrame:
    """The runs of a study as a tidy pandas table, a row for each.

    Args:
        name: of the study.
        home: the local folder, by default `HDVAE_HOME` or `runs`.

    Returns:
        Columns: study, kind (search or confirmation), trial, seed, state, run_id, arm (in words), each setting by its
        dotted path, and the last value of each metric by its full name, in nats per image.

    Raises:
        InputError: MLflow has no such study.
    """
    notebook = importlib.import_module("hdvae_platform.notebook")  # not before: workers need no MLflow
    return notebook.results(name, home)
