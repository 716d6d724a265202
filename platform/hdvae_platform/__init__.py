"""The study platform: launches, resumes, tracks and compares HD-VAE studies on Ray, Optuna and MLflow."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from hdvae.trained import TrainedModel


def load(run: str, home: str | Path | None = None) -> TrainedModel:
    """The trained model of a run, wherever its checkpoint is; what it can do is at `hdvae.trained.TrainedModel`.

    Args:
        run: a handle, `STUDY/TRIAL/SEED` or `STUDY/best`; an MLflow run id, or `runs:/ID`; a registered model,
            `models:/STUDY/VERSION` or `models:/STUDY/latest`; or the address of a run's folder, of its `checkpoints`
            folder or of one `.safetensors` file, on disk or S3. An existing folder wins over a handle of the same name,
            with a warning.
        home: the folder of everything local; by default `HDVAE_HOME`, or `runs`.

    Raises:
        InputError: there is no such run or model, or it has no readable checkpoint; or MLflow does not answer.
    """
    from hdvae_platform.tracking.environment import configured

    with configured():
        from hdvae_platform.trained.loading import load_model  # imported here, since it brings torch and MLflow

        return load_model(run, _home(home))


def results(name: str, home: str | Path | None = None) -> pd.DataFrame:
    """The runs of a study as a tidy pandas table, a row for each.

    Args:
        name: of the study.
        home: the local folder, by default `HDVAE_HOME` or `runs`.

    Returns:
        Columns: handle, study, kind (search or confirmation), trial, seed, state, run_id, arm (in words), each setting
        by its dotted path, and the last value of each metric by its full name, in nats per image.

    Raises:
        InputError: MLflow has no such study.
    """
    from hdvae_platform.tracking.environment import configured

    with configured():
        # Imported here, and by its name: import-linter would see that workers, which import this package, need MLflow.
        return importlib.import_module("hdvae_platform.analysis.dataframe").results(name, _home(home))


def _home(home: str | Path | None) -> Path:
    return Path(home or os.environ.get("HDVAE_HOME") or "runs")
